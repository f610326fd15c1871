"""Files that are quantized already: refused, or read as the float network between their Q and DQ nodes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import halfstep as hs
import zoo
from halfstep.errors import ModelError
from halfstep.graph.edges import behind_quantizer, quantizer_of
from halfstep.graph.edit import attribute
from halfstep.graph.operators import weighted_layers
from halfstep.onnx_import.strip import dequantize

Write = Callable[..., Path]


@pytest.mark.parametrize(("name", "recipe"), [("residual", "int8"), ("option_a", "int8"), ("concat", "int8"), ("residual", "nearest-w4")])
def test_weights_are_those_of_the_simulation(name: str, recipe: str, tmp_path: Path) -> None:
    """Without the quantization of activations, the stripped file is the simulated network with its activation quantizers switched off."""
    result = zoo.quantized(name, recipe)
    hs.export.onnx(result, tmp_path / "net.onnx")
    with pytest.raises(ModelError, match=r"quantized already.*--strip-quantization"):
        hs.load_onnx(tmp_path / "net.onnx")
    stripped = hs.load_onnx(tmp_path / "net.onnx", strip_quantization=True)
    found = dict(stripped.named_parameters())
    for layer in weighted_layers(result.model):
        quantizer = quantizer_of(layer.weight)
        assert quantizer is not None
        simulated = quantizer(attribute(result.model, behind_quantizer(layer.weight)))
        matching = [tensor for tensor in found.values() if tensor.shape == simulated.shape and torch.allclose(tensor, simulated, atol=1e-6)]
        assert matching, layer.name
    x = zoo.ZOO[name].inputs(16)
    assert zoo.relative(stripped(*x), zoo.eager(name, x)[0]) < (0.1 if recipe == "int8" else 1.0)
    again = hs.quantize(stripped, zoo.calibration_of(name))
    hs.export.onnx(again, tmp_path / "again.onnx")


CODED = """g (float[N,2,4,4] x) => (float[N,2,3,3] y) {
    q = QuantizeLinear(x, s, z)
    c = Clip(q, low, high)
    m = MaxPool<kernel_shape=[2,2]>(c)
    d = DequantizeLinear(m, s, z)
    y = Relu(d)
}"""
GRID = {"s": np.array(0.1, np.float32), "z": np.array(128, np.uint8), "low": np.array(120, np.uint8), "high": np.array(140, np.uint8)}


def test_codes_are_moved_as_real_numbers(write: Write) -> None:
    x = torch.randn(2, 2, 4, 4)
    found = hs.load_onnx(write(CODED, **GRID), strip_quantization=True)(x)
    torch.testing.assert_close(found, torch.relu(torch.max_pool2d(x, 2, 1)))


@pytest.mark.parametrize(("zero_point", "low"), [(0, 0.0), (128, None)])
def test_a_relu_left_to_the_grid_comes_back(write: Write, zero_point: int, low: float | None) -> None:
    """A grid whose lowest code means 0 saturates there; any other one has no activation function in it."""
    path = write(
        "g (float[N,3] x) => (float[N,3] y) { a = Mul(x, x2) q = QuantizeLinear(a, s, z) y = DequantizeLinear(q, s, z) }",
        s=GRID["s"], z=np.array(zero_point, np.uint8), x2=np.array([1, 2, -1], np.float32),
    )  # fmt: skip
    x = torch.randn(50, 3)
    product = x * torch.tensor([1.0, 2.0, -1.0])
    wanted = product if low is None else product.clamp(low, 25.5)
    torch.testing.assert_close(hs.load_onnx(path, strip_quantization=True)(x), wanted)


@pytest.mark.parametrize(("padding", "is_read"), [(128, True), (0, False)])
def test_padding_with_the_zero_point_is_padding_with_zero(write: Write, padding: int, is_read: bool) -> None:
    path = write(
        "g (float[N,3] x) => (float[N,5] y) { q = QuantizeLinear(x, s, z) p = Pad(q, pads, value) y = DequantizeLinear(p, s, z) }",
        s=GRID["s"], z=GRID["z"], pads=np.array([0, 1, 0, 1]), value=np.array(padding, np.uint8),
    )  # fmt: skip
    x = torch.randn(2, 3)
    if is_read:
        torch.testing.assert_close(hs.load_onnx(path, strip_quantization=True)(x), torch.nn.functional.pad(x, (1, 1)))
    else:
        with pytest.raises(ModelError, match="zero point"):
            hs.load_onnx(path, strip_quantization=True)


@pytest.mark.parametrize(
    ("body", "part"),
    [
        ("q = QuantizeLinear(x, s, z) t = Mul(q, q) y = DequantizeLinear(t, s, z)", "'Mul_1'"),
        ("q = QuantizeLinear(x, s, z) y = Identity(q)", "output 'y'"),
        ("y = QLinearMatMul(x, s, z, x, s, z, s, z)", "float file"),
    ],
)
def test_what_has_no_float_network(write: Write, body: str, part: str) -> None:
    kind = "uint8" if "Identity" in body else "float"
    path = write(f"g (float[N,3] x) => ({kind}[N,3] y) {{ {body} }}", s=GRID["s"], z=GRID["z"])
    with pytest.raises(ModelError, match=part):
        hs.load_onnx(path, strip_quantization=True)


@given(
    shape=st.lists(st.integers(1, 4), min_size=1, max_size=3),
    axis=st.integers(0, 2),
    seed=st.integers(0, 99),
    kind=st.sampled_from(["tensor", "axis", "block"]),
)
def test_dequantize_as_onnx_defines_it(shape: list[int], axis: int, seed: int, kind: str) -> None:
    from onnx.reference import ReferenceEvaluator

    random, axis = np.random.default_rng(seed), axis % len(shape)
    if kind == "block":
        shape[axis] *= 2
    codes = random.integers(-128, 128, shape).astype(np.int8)
    sizes = {"tensor": [], "axis": [shape[axis]], "block": [*shape[:axis], shape[axis] // 2, *shape[axis + 1 :]]}[kind]
    scale, zero_point = random.random(sizes, np.float32) + np.float32(0.1), random.integers(-5, 6, sizes).astype(np.int8)
    attributes = {"axis": axis} | ({"block_size": 2} if kind == "block" else {})
    node = onnx.helper.make_node("DequantizeLinear", ["c", "s", "z"], ["y"], **attributes)
    feeds = {"c": codes, "s": scale, "z": zero_point}
    info, kind_of = onnx.helper.make_tensor_value_info, onnx.helper.np_dtype_to_tensor_dtype
    inputs = [info(name, kind_of(array.dtype), array.shape) for name, array in feeds.items()]
    graph = onnx.helper.make_graph([node], "g", inputs, [info("y", onnx.TensorProto.FLOAT, shape)])
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 21)])
    (wanted,) = ReferenceEvaluator(model).run(None, feeds)
    np.testing.assert_allclose(dequantize(codes, scale, zero_point, attributes), wanted, rtol=1e-5, atol=1e-6)
