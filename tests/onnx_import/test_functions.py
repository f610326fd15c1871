"""Functions written out in parts, which become one operator again."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from onnx_texts import SILU, Write, captured, real, runtime

import halfstep as hs

GELU = """g (float[N,6] x) => (float[N,6] y) {
    half = Constant<value = float {0.5}>()
    one = Constant<value = float {1.0}>()
    root = Constant<value = float {1.41421356}>()
    a = Div(x, root)
    b = Erf(a)
    c = Add(b, one)
    d = Mul(x, c)
    [act] y = Mul(d, half)
}"""
NORM = """g (float[N,5,6] x) => (float[N,5,6] y) {
    two = Constant<value = float {2.0}>()
    eps = Constant<value = float {0.00001}>()
    mean = ReduceMean<axes=[-1]>(x)
    d = Sub(x, mean)
    q = Pow(d, two)
    v = ReduceMean<axes=[-1]>(q)
    e = Add(v, eps)
    s = Sqrt(e)
    n = Div(d, s)
    p = Mul(n, gain)
    [norm] y = Add(p, bias)
}"""
MISH = "g (float[N,6] x) => (float[N,6] y) { s = Softplus(x) t = Tanh(s) [act] y = Mul(x, t) }"
MASK = "g (float[N,3,3] x) => (float[N,3,3] y) { a = Add(x, m) y = Softmax(a) }"
HIDDEN = np.triu(np.full((3, 3), -np.inf, np.float32), 1)
HARD_SWISH = "g (float[N,6] x) => (float[N,6] y) { s = HardSigmoid<alpha=0.16666667, beta=0.5>(x) [act] y = Mul(x, s) }"


@pytest.mark.parametrize(
    ("text", "shape", "operator", "name"),
    [
        (GELU, (6,), "aten.gelu.default", "act"),
        (GELU.replace("Mul(x, c)", "Mul(x, half)").replace("Mul(d, half)", "Mul(d, c)"), (6,), "aten.gelu.default", "act"),
        (NORM, (5, 6), "aten.layer_norm.default", "norm"),
        (SILU, (6,), "aten.silu.default", "act"),
        (MISH, (6,), "aten.mish.default", "act"),
        (HARD_SWISH, (6,), "aten.hardswish.default", "act"),
    ],
)
def test_functions_written_in_parts_are_put_together(write: Write, text: str, shape: tuple[int, ...], operator: str, name: str) -> None:
    path, x = write(text, **({"gain": real(6), "bias": real(6)} if text is NORM else {})), torch.randn(4, *shape)
    graph = captured(path, x)
    assert [(str(node.target), node.meta["name"]) for node in graph.graph.nodes if node.op == "call_function"] == [(operator, name)]
    torch.testing.assert_close(graph(x), runtime(path, x)[0], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "text",
    [
        GELU.replace("1.41421356", "1.5"), GELU.replace("Mul(x, c)", "Mul(a, c)"), GELU.replace("{1.0}", "{2.0}"),
        NORM.replace("Sub(x, mean)", "Sub(mean, x)"), NORM.replace("{2.0}", "{4.0}"),
        NORM.replace("mean = ReduceMean<axes=[-1]>", "mean = ReduceMean<axes=[1]>"),
        HARD_SWISH.replace("0.16666667", "0.2"), SILU.replace("Mul(s, x)", "Mul(s, s)"),
    ],
)  # fmt: skip
def test_what_only_looks_like_them_is_left(write: Write, text: str) -> None:
    constants = {"gain": real(6), "bias": real(6)} if "gain" in text else {}
    path, x = write(text, **constants), torch.randn(4, *([5, 6] if constants else [6]))
    torch.testing.assert_close(hs.load_onnx(path)(x), runtime(path, x)[0], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("value", [-np.inf, float(np.finfo(np.float32).min)])
def test_a_mask_that_is_added_hides(write: Write, value: float) -> None:
    """As numbers it would be refused (infinite), or take the whole range of a grid."""
    path, x = write(MASK, m=np.where(HIDDEN < 0, np.float32(value), np.float32(0))), torch.randn(4, 3, 3)
    graph = captured(path, x)
    assert [str(node.target) for node in graph.graph.nodes if node.op == "call_function"] == ["aten.masked_fill.Scalar", "aten.softmax.int"]
    torch.testing.assert_close(graph(x), runtime(path, x)[0])


GROUPS = """g (float[N,4,3,3] x) => (float[N,4,3,3] y) {
    s = Shape(x)
    r = Reshape(x, apart)
    n = InstanceNormalization<epsilon=0.001>(r, ones, zeros)
    b = Reshape(n, s)
    p = Mul(b, gain)
    [norm] y = Add(p, bias)
}"""


def test_a_group_norm_written_in_parts(write: Write) -> None:
    constants = {
        "apart": np.array([0, 2, -1]),
        "ones": np.ones(2, np.float32),
        "zeros": np.zeros(2, np.float32),
        "gain": real(4, 1, 1),
        "bias": real(4, 1, 1),
    }
    path, x = write(GROUPS, **constants), torch.randn(5, 4, 3, 3)
    graph = captured(path, x)
    assert [str(node.target) for node in graph.graph.nodes if node.op == "call_function"] == ["aten.group_norm.default"]
    torch.testing.assert_close(graph(x), runtime(path, x)[0], rtol=1e-4, atol=1e-5)
