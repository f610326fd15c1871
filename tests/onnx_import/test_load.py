"""What becomes of a file: names, batch size, layers; and what is refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from torch import Tensor, nn
from torch.fx import GraphModule

import halfstep as hs
from halfstep.errors import DataError, HalfstepError, ModelError
from halfstep.graph.capture import capture
from halfstep.graph.check import check
from halfstep.graph.operators import weighted_layers

Write = Callable[..., Path]
RANDOM = np.random.default_rng(0)


def real(*shape: int) -> Any:
    return RANDOM.standard_normal(shape).astype(np.float32)


CONV = "g (float[N,3,8,8] image) => (float[N,4] scores) "
CONV_BODY = """{
    [___stem___Conv] a = Conv<pads=[1,1,1,1]>(image, stem__weight)
    [___stem___bn] b = BatchNormalization(a, bn_scale, bn_shift, bn_mean, bn_variance)
    [___stem___act] c = Relu(b)
    [pool] d = GlobalAveragePool(c)
    [flat] e = Flatten(d)
    [head] scores = Gemm<transB=1>(e, head__weight, head__bias)
}"""


def weights() -> dict[str, Any]:
    return {
        "stem__weight": real(8, 3, 3, 3),
        "bn_scale": np.abs(real(8)) + 0.5, "bn_shift": real(8), "bn_mean": real(8), "bn_variance": np.abs(real(8)) + 0.5,
        "head__weight": real(4, 8), "head__bias": real(4),
    }  # fmt: skip


def captured(path: Path, *inputs: Tensor) -> GraphModule:
    graph = capture(hs.load_onnx(path), inputs)
    check(graph)
    return graph


def names(graph: GraphModule) -> list[str]:
    return [str(node.meta["name"]) for node in graph.graph.nodes if node.op != "output"]


def runtime(path: Path, *inputs: Tensor) -> list[Tensor]:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = (
        onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    )  # they take what only looks like a layer norm for one
    session = onnxruntime.InferenceSession(str(path), options, ["CPUExecutionProvider"])
    feeds = {value.name: x.numpy() for value, x in zip(session.get_inputs(), inputs, strict=True)}
    return [torch.from_numpy(output) for output in session.run(None, feeds)]


def test_names_of_nodes_and_initializers_stay(write: Write) -> None:
    graph = captured(write(CONV + CONV_BODY, **weights()), torch.randn(4, 3, 8, 8))
    found = names(graph)
    assert {"image", "stem.weight", "head.weight", "head.bias", "/stem/Conv", "/stem/bn", "/stem/act", "pool", "flat", "head"} == set(found)
    assert graph.meta["batch_size"] is None and graph.meta["notes"] == []
    assert [node.meta["shape"] for node in graph.graph.nodes if node.meta["name"] == "/stem/Conv"] == [(None, 8, 8, 8)]


def test_a_batch_norm_is_a_module_that_can_be_folded(write: Write) -> None:
    path = write(CONV + CONV_BODY, **weights())
    graph = captured(path, torch.randn(4, 3, 8, 8))
    assert isinstance(graph.get_submodule("/stem/bn"), nn.BatchNorm2d)
    result = hs.quantize(hs.load_onnx(path), torch.randn(32, 3, 8, 8))
    assert [layer.name for layer in weighted_layers(result.model)] == ["/stem/Conv", "head"]
    assert "/stem/bn" not in names(result.model)


def test_a_batch_norm_above_other_names(write: Write) -> None:
    """Its module does not push out what lies below a name like its own."""
    text = (CONV + CONV_BODY).replace("[___stem___bn]", "[stem]")
    path, x = write(text, **weights()), torch.randn(4, 3, 8, 8)
    graph = captured(path, x)
    assert isinstance(graph.get_submodule("stem.batch_norm"), nn.BatchNorm2d)
    torch.testing.assert_close(graph(x), runtime(path, x)[0], rtol=1e-4, atol=1e-5)


def test_it_computes_what_onnx_runtime_does(write: Write) -> None:
    path, x = write(CONV + CONV_BODY, **weights()), torch.randn(5, 3, 8, 8)
    torch.testing.assert_close(hs.load_onnx(path)(x), runtime(path, x)[0], rtol=1e-4, atol=1e-5)


def test_awkward_names(write: Write) -> None:
    """Names that PyTorch keeps for itself, that are no identifiers, or that stand above one another."""
    text = """g (float[N,4] x) => (float[N,4] y) {
        [forward] a = Add(x, training)
        [b] e = Mul(a, b__c)
        [b__c] c = Sub(e, graph__code)
        [model___Relu] d = Relu(c)
        [model___Relu__] y = Add(d, b)
    }"""
    path = write(text, training=real(4), b__c=real(4), graph__code=real(4), b=real(4))
    x = torch.randn(3, 4)
    graph = captured(path, x)
    torch.testing.assert_close(graph(x), runtime(path, x)[0])
    assert {"model/Relu", "b", "b.c"} <= set(names(graph))
    hs.quantize(hs.load_onnx(path), torch.randn(8, 4))


def test_a_fixed_batch_stays_fixed(write: Write) -> None:
    path = write(CONV.replace("N", "2") + CONV_BODY, **weights())
    graph = captured(path, torch.randn(4, 3, 8, 8))
    assert graph.meta["batch_size"] == 2
    assert "batches of 2" in graph.meta["notes"][0]


def test_sizes_left_free_come_from_the_data(write: Write) -> None:
    path = write(CONV.replace("8,8", "H,W") + CONV_BODY, **weights())
    for size in (8, 11):
        x = torch.randn(4, 3, size, size)
        torch.testing.assert_close(captured(path, x)(x), runtime(path, x)[0], rtol=1e-4, atol=1e-5)


def test_arithmetic_on_the_batch_size_leaves_no_trace(write: Write) -> None:
    text = """g (float[N,6] x) => (float[N,2] y) {
        s = Shape(x)
        zero = Constant<value = int64 {0}>()
        n = Gather(s, zero)
        axes = Constant<value = int64[1] {0}>()
        one = Unsqueeze(n, axes)
        rest = Constant<value = int64[2] {2, 3}>()
        wanted = Concat<axis=0>(one, rest)
        parts = Reshape(x, wanted)
        last = Constant<value = int64[1] {2}>()
        y = ReduceSum<keepdims=0>(parts, last)
    }"""
    x = torch.randn(4, 6)
    graph = captured(write(text), x)
    assert torch.allclose(graph(x), x.reshape(4, 2, 3).sum(2))
    assert torch.allclose(graph(x[:3]), x[:3].reshape(3, 2, 3).sum(2))
    assert [str(node.target) for node in graph.graph.nodes if node.op == "call_function" and not node.meta.get("is_number")] == [
        "aten.reshape.default", "aten.sum.dim_IntList"
    ]  # fmt: skip


def test_a_stored_matrix_makes_a_linear_layer_with_its_bias(write: Write) -> None:
    text = """g (float[N,5,6] x) => (float[N,5,4] y) {
        [product] a = MatMul(x, layer__weight)
        [sum] y = Add(layer__bias, a)
    }"""
    path = write(text, layer__weight=real(6, 4), layer__bias=real(4))
    x = torch.randn(3, 5, 6)
    graph = captured(path, x)
    (layer,) = weighted_layers(graph)
    assert (layer.name, layer.weight.target, layer.weight.meta["shape"]) == ("product", "layer.weight", (4, 6))
    assert layer.bias is not None and layer.bias.target == "layer.bias"
    torch.testing.assert_close(graph(x), runtime(path, x)[0])


def test_a_matrix_with_another_reader_is_kept(write: Write) -> None:
    text = """g (float[N,4] x) => (float[N,4] y) {
        a = MatMul(x, w)
        b = MatMul(a, w)
        c = Add(b, row)
        rows = ReduceSum<keepdims=0>(w, axis)
        y = Mul(c, rows)
    }"""
    path, x = write(text, w=real(4, 4), row=real(4), axis=np.array([0])), torch.randn(3, 4)
    torch.testing.assert_close(captured(path, x)(x), runtime(path, x)[0])


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
SILU = "g (float[N,6] x) => (float[N,6] y) { s = Sigmoid(x) [act] y = Mul(s, x) }"
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


def test_an_einsum_of_two_tensors_is_a_product(write: Write) -> None:
    text = 'g (float[N,3,4] x, float[N,5,4] z) => (float[N,5,3] y) { y = Einsum<equation="bic,bjc->bji">(x, z) }'
    path, inputs = write(text), (torch.randn(2, 3, 4), torch.randn(2, 5, 4))
    graph = captured(path, *inputs)
    assert "aten.matmul.default" in [str(node.target) for node in graph.graph.nodes]
    torch.testing.assert_close(graph(*inputs), runtime(path, *inputs)[0])


def test_softmax_before_opset_13_goes_over_all_later_axes(write: Write) -> None:
    text = "g (float[N,3,4] x) => (float[N,3,4] y) { y = Softmax<axis=1>(x) }"
    x = torch.randn(2, 3, 4)
    for opset in (11, 13):
        path = write(text, opset)
        torch.testing.assert_close(hs.load_onnx(path)(x), runtime(path, x)[0])


@pytest.mark.parametrize("opset", [11, 13, 18])
def test_axes_as_attribute_and_as_input(write: Write, opset: int) -> None:
    squeeze = "a = Unsqueeze<axes=[1]>(x) b = Squeeze<axes=[1]>(a)" if opset < 13 else "a = Unsqueeze(x, one) b = Squeeze(a, one)"
    mean = "y = ReduceMean<axes=[1]>(b)" if opset < 18 else "y = ReduceMean(b, one)"
    constants = {} if opset < 13 else {"one": np.array([1])}
    path, x = write(f"g (float[N,6] x) => (float[N,1] y) {{ {squeeze} {mean} }}", opset, **constants), torch.randn(3, 6)
    torch.testing.assert_close(hs.load_onnx(path)(x), runtime(path, x)[0])


def test_the_class_has_the_name_of_the_file(write: Write) -> None:
    path = write("g (float[N,6] x) => (float[N,6] y) { y = Relu(x) }", 18)
    named = path.rename(path.with_name("my-net.v2.onnx"))
    assert type(hs.load_onnx(named)).__name__ == "my-net.v2"


# What is refused


def refused(path: Path, *parts: str, strip: bool = False) -> str:
    with pytest.raises(ModelError) as error:
        hs.load_onnx(path, strip)
    assert "\n" not in str(error.value)
    for part in parts:
        assert part in str(error.value)
    return str(error.value)


def test_an_unknown_operator_is_named_with_its_node_and_opset(write: Write) -> None:
    text = "g (float[N,2,3,3] x, float[N,3,3,2] g) => (float[N,2,3,3] y) { [warp] y = GridSample(x, g) }"
    refused(write(text), "'warp'", "GridSample", "opset 17", "PyTorch network")


def test_operators_of_a_runtime_are_refused(write: Write) -> None:
    path = write(SILU)
    proto = onnx.load(path)
    proto.graph.node[0].domain = "com.microsoft"
    onnx.save(proto, path)
    refused(path, "com.microsoft", "fusions")


@pytest.mark.parametrize(("opset", "is_read"), [(10, False), (11, True), (23, True), (99, False)])
def test_opsets(write: Write, opset: int, is_read: bool) -> None:
    path = write(SILU)
    proto = onnx.load(path)
    proto.opset_import[0].version = opset
    onnx.save(proto, path)
    if is_read:
        hs.load_onnx(path)
    else:
        refused(path, f"opset {opset}", "11 to 28", "convert_version")


def test_weights_that_are_not_finite(write: Write) -> None:
    bad = weights()
    bad["stem__weight"][0] = np.nan
    with pytest.raises(ModelError, match=r"'stem\.weight' hold NaN"):
        hs.quantize(hs.load_onnx(write(CONV + CONV_BODY, **bad)), torch.randn(4, 3, 8, 8))


def test_an_operator_that_cannot_be_computed_is_named(write: Write) -> None:
    path = write(CONV + CONV_BODY, **{**weights(), "head__weight": real(4, 9)})
    with pytest.raises(HalfstepError, match="Node 'head' "):
        hs.quantize(hs.load_onnx(path), torch.randn(4, 3, 8, 8))


def test_data_that_does_not_fit(write: Write) -> None:
    model = hs.load_onnx(write(CONV + CONV_BODY, **weights()))
    with pytest.raises(DataError, match="'image'"):
        hs.quantize(model, torch.randn(4, 3, 9, 9))
    with pytest.raises(DataError, match=r"1 input\(s\)"):
        model(torch.randn(1, 3, 8, 8), torch.randn(1))


def test_a_constant_beyond_all_memory(write: Write) -> None:
    text = "g (float[N,1] x) => (float[N,K] y) { c = ConstantOfShape(size) y = Add(x, c) }"
    refused(write(text, size=np.array([10**12])), "ConstantOfShape", "1,000,000,000,000")


def test_a_result_beyond_all_memory(write: Write) -> None:
    text = "g (float[N,4] x) => (float[N,M] y) { y = Tile(x, times) }"
    with pytest.raises(HalfstepError, match="memory"):
        hs.load_onnx(write(text, times=np.array([1, 10**13])))(torch.randn(2, 4))


# Data in other files


def external(write: Write, location: str, offset: int | None = None, length: int | None = None) -> Path:
    """A network whose weight lies in another file."""
    path = write("g (float[N,4] x) => (float[N,4] y) { y = MatMul(x, w) }")
    proto = onnx.load(path)
    tensor = proto.graph.initializer.add()
    tensor.name, tensor.data_type, tensor.data_location = "w", onnx.TensorProto.FLOAT, onnx.TensorProto.EXTERNAL
    tensor.dims.extend([4, 4])
    for key, value in (("location", location), ("offset", offset), ("length", length)):
        if value is not None:
            entry = tensor.external_data.add()
            entry.key, entry.value = key, str(value)
    path.write_bytes(proto.SerializeToString())
    return path


def test_external_data(write: Write, tmp_path: Path) -> None:
    matrix = real(4, 4)
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "w.bin").write_bytes(b"12345678" + matrix.tobytes() + b"end")
    x = torch.randn(3, 4)
    found = hs.load_onnx(external(write, "data/w.bin", 8, 64))(x)
    torch.testing.assert_close(found, x @ torch.from_numpy(matrix))


def test_external_data_outside_the_folder(write: Write, tmp_path: Path) -> None:
    outside = tmp_path.parent / f"{tmp_path.name}-secret.bin"
    outside.write_bytes(bytes(64))
    (tmp_path / "link.bin").symlink_to(outside)
    refused(external(write, f"../{outside.name}"), "leads out")
    refused(external(write, f"a/../../{outside.name}"), "leads out")
    refused(external(write, str(outside)), "absolute")
    refused(external(write, "link.bin"), "link")
    refused(external(write, ""), "absolute path or none")
    outside.unlink()


def test_external_data_that_is_missing_or_too_short(write: Write, tmp_path: Path) -> None:
    refused(external(write, "w.bin"), "There is no file", "w.bin")
    (tmp_path / "w.bin").write_bytes(bytes(63))
    refused(external(write, "w.bin"), "truncated")
    refused(external(write, "w.bin", -4), "truncated")
    refused(external(write, "w.bin", 0, 60), "takes 64 bytes")
    refused(external(write, "w.bin", "x"), "not a number")  # type: ignore[arg-type]
    (tmp_path / "folder").mkdir()
    refused(external(write, "folder"), "no plain file")
