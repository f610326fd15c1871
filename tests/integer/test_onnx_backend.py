"""ONNX's own tests of its integer operators, run on the interpreter's: each is built as a program of one operator, where there is one.

The lists below name every test of `onnx.backend.test` for these operators; one that a new version of onnx adds has to be entered.
"""

from __future__ import annotations

import functools
import importlib
import pkgutil
import re
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import onnx.backend.test.case.node as node_tests
import pytest
import torch

from halfstep.grid import Grid
from halfstep.integer import IntegerProgram, Rescale, Value, check, dequantize_outputs, quantize_inputs, rescale, run
from halfstep.integer.operators import AbstractOperator, Conv, Matmul
from halfstep.integer.requantization import exact_power

Array = np.ndarray[Any, Any]
_MODULES = re.compile("quantize|qlinear|integer")  # files of onnx.backend.test.case.node
_TYPES = ("uint16", "int16", "uint4", "int4", "uint2", "int2")
_MATMULS = [
    f"test_qlinearmatmul_{axes}_{kind}_{real}" for axes in ("2D", "3D") for kind in ("uint8", "int8") for real in ("float32", "float16")
]

APPLIES = [
    "test_quantizelinear",
    "test_quantizelinear_axis",
    *(f"test_quantizelinear_{kind}" for kind in _TYPES),
    "test_dequantizelinear",
    "test_dequantizelinear_axis",
    *(f"test_dequantizelinear_{kind}" for kind in _TYPES),
    "test_convinteger_with_padding",
    "test_convinteger_without_padding",
    "test_matmulinteger",
    "test_qlinearconv",
    *_MATMULS,
]
_FLOATS, _BLOCKS = "codes that are floats lie on no integer grid", "a scale for each block: a value has one scale"
_DYNAMIC = "finds its scale in the input: a program's scales are fixed"
DOES_NOT_APPLY = {
    **{f"test_quantizelinear_{kind}": _FLOATS for kind in ("e4m3fn", "e5m2", "float4e2m1")},
    **{f"test_dequantizelinear_{kind}": _FLOATS for kind in ("e4m3fn", "e4m3fn_float16", "e4m3fn_zero_point", "e5m2", "float4e2m1")},
    **dict.fromkeys(("test_quantizelinear_blocked_asymmetric", "test_quantizelinear_blocked_symmetric"), _BLOCKS),
    "test_dequantizelinear_blocked": _BLOCKS,
    **{
        f"test_dynamicquantizelinear{case}{form}": _DYNAMIC for case in ("", "_max_adjusted", "_min_adjusted") for form in ("", "_expanded")
    },
}


@functools.cache
def _tests() -> dict[str, Any]:
    """By name, every test of an operator whose file has an integer operator's name."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the files' own arithmetic
        for module in pkgutil.iter_modules(node_tests.__path__):
            if _MODULES.search(module.name):
                importlib.import_module(f"{node_tests.__name__}.{module.name}")
    found = {test.name: test for test in node_tests._NodeTestCases}
    return {name: test for name, test in found.items() if _MODULES.search(name)}


def test_every_test_of_onnx_is_in_a_list() -> None:
    """`onnx` as it is installed: none may be new, none gone."""
    assert sorted([*APPLIES, *DOES_NOT_APPLY]) == sorted(_tests())


def _array(given: Any) -> Array:
    return onnx.numpy_helper.to_array(given) if isinstance(given, onnx.TensorProto) else np.asarray(given)


def _grid(array: Array) -> Grid:
    """That of the array's type: uint8, int4 ..."""
    found = re.fullmatch(r"(u?)int(\d+)", array.dtype.name)
    assert found is not None
    return Grid(int(found[2]), not found[1], symmetric=False)


def _codes(array: Array) -> torch.Tensor:
    return torch.from_numpy(array.astype(np.int64))


def _channels(parameter: Array, x: Array, axis: int) -> list[tuple[int, Any]]:
    """(channel, slice of x) for each entry of a scale or zero point; the whole of x for a single one."""
    if parameter.size == 1:
        return [(0, np.s_[...])]
    return [(channel, (slice(None),) * (axis % x.ndim) + (channel,)) for channel in range(parameter.size)]


def _axis(node: onnx.NodeProto) -> int:
    return next((attribute.i for attribute in node.attribute if attribute.name == "axis"), 1)


def _identity(x: Array, scale: Array, zero_point: Array, channel: int) -> IntegerProgram:
    """A program that hands out its input: one code a sample."""
    zero_point = zero_point.astype(np.int64).flatten()
    value = Value("x", (), _grid(x), float(scale.flatten()[channel]), int(zero_point[channel] if zero_point.size > 1 else zero_point[0]))
    return check(IntegerProgram("net", {"x": value}, (), ("x",), ("x",)))


def _quantize(node: onnx.NodeProto, inputs: list[Array], mode: str) -> Array:
    x, scale, zero_point = inputs
    made = np.zeros(x.shape, np.int64)
    for channel, part in _channels(scale, x, _axis(node)):
        program = _identity(zero_point, scale, zero_point, channel)
        made[part] = quantize_inputs(program, (torch.from_numpy(x[part].flatten()),))[0].numpy().reshape(x[part].shape)
    return made


def _dequantize(node: onnx.NodeProto, inputs: list[Array], mode: str) -> Array:
    x, scale = inputs[:2]
    zero_point = inputs[2] if len(inputs) > 2 else np.zeros((), x.dtype)
    made = np.zeros(x.shape)
    for channel, part in _channels(scale, x, _axis(node)):
        program = _identity(x, scale, zero_point, channel)
        outputs = run(program, (_codes(x[part].flatten()),))
        made[part] = dequantize_outputs(program, outputs)[0].numpy().reshape(x[part].shape)
    return made.astype(np.float32)  # products of a few bits by a float32: rounded once, as a product in float32 is


def _scalar(array: Array) -> int:
    assert array.size == 1
    return int(array.flatten()[0])


def _conv(node: onnx.NodeProto, x: Array, w: Array, zero_points: tuple[Array, Array], ending: tuple[Rescale, Value]) -> Array:
    """A `Conv` of one sample; the weight's zero point, also one a channel, is taken off its codes."""
    given = {attribute.name: list(attribute.ints) for attribute in node.attribute}
    pads = given.get("pads", [0] * 4)
    zero_point = _scalar(zero_points[0])
    weight = _codes(w) - _codes(zero_points[1]).view(-1, 1, 1, 1)
    bias = -zero_point * weight.flatten(1).sum(1)
    padding = tuple(zip(pads[:2], pads[2:], strict=True))
    made, y = ending
    operator = Conv("conv", ("x",), "y", made, y.grid.minimum, y.grid.maximum, weight, bias, (1, 1), padding, (1, 1))
    values = {"x": Value("x", x.shape[1:], _grid(x), 1.0, zero_point), "y": y}
    return _result(operator, values, (x,))


def _matmul(a: Array, b: Array, zero_points: tuple[Array, Array], ending: tuple[Rescale, Value]) -> Array:
    """A `Matmul`; what ONNX has no batch for is a batch of one."""
    made, y = ending
    operator = Matmul("matmul", ("a", "b"), "y", made, y.grid.minimum, y.grid.maximum)
    pairs = zip(("a", "b"), (a, b), zero_points, strict=True)
    values = {name: Value(name, x.shape, _grid(x), 1.0, _scalar(zero_point)) for name, x, zero_point in pairs}
    return _result(operator, {**values, "y": y}, (a[None], b[None]))[0]


def _result(operator: AbstractOperator, values: dict[str, Value], inputs: tuple[Array, ...]) -> Array:
    program = check(IntegerProgram("net", values, (operator,), operator.inputs, ("y",)))
    return run(program, tuple(_codes(x) for x in inputs))[0].numpy()


def _wide(shape: tuple[int, ...]) -> tuple[Rescale, Value]:
    """The accumulator itself."""
    return exact_power(0), Value("y", shape, Grid(32, True), 1.0)


def _narrow(shape: tuple[int, ...], scales: list[Array], zero_point: Array, mode: str) -> tuple[Rescale, Value]:
    """On the grid of the output; scales: of the two operands and of the output."""
    one, other, result = (torch.from_numpy(scale.astype(np.float64).flatten()) for scale in scales)
    return rescale(one * other / result, mode), Value("y", shape, _grid(zero_point), 1.0, _scalar(zero_point))


def _conv_integer(node: onnx.NodeProto, inputs: list[Array], mode: str) -> Array:
    x, w, x_zero_point = inputs[:3]
    w_zero_point = inputs[3] if len(inputs) > 3 else np.zeros(1, w.dtype)
    pads = next((list(attribute.ints) for attribute in node.attribute if attribute.name == "pads"), [0] * 4)
    sizes = [x.shape[axis + 2] + pads[axis] + pads[axis + 2] - w.shape[axis + 2] + 1 for axis in range(2)]
    return _conv(node, x, w, (x_zero_point, w_zero_point), _wide((len(w), *sizes)))


def _matmul_integer(node: onnx.NodeProto, inputs: list[Array], mode: str) -> Array:
    a, b, a_zero_point, b_zero_point = inputs
    return _matmul(a, b, (a_zero_point, b_zero_point), _wide((*a.shape[:-1], b.shape[-1])))


def _qlinear_conv(node: onnx.NodeProto, inputs: list[Array], mode: str) -> Array:
    x, x_scale, x_zero_point, w, w_scale, w_zero_point, y_scale, y_zero_point = inputs
    assert w.shape[2:] == (1, 1)
    ending = _narrow((len(w), *x.shape[2:]), [x_scale, w_scale, y_scale], y_zero_point, mode)
    return _conv(node, x, w, (x_zero_point, w_zero_point), ending)


def _qlinear_matmul(node: onnx.NodeProto, inputs: list[Array], mode: str) -> Array:
    a, a_scale, a_zero_point, b, b_scale, b_zero_point, y_scale, y_zero_point = inputs
    ending = _narrow((*a.shape[:-1], b.shape[-1]), [a_scale, b_scale, y_scale], y_zero_point, mode)
    return _matmul(a, b, (a_zero_point, b_zero_point), ending)


RUN: dict[str, Callable[[onnx.NodeProto, list[Array], str], Array]] = {
    "QuantizeLinear": _quantize,
    "DequantizeLinear": _dequantize,
    "ConvInteger": _conv_integer,
    "MatMulInteger": _matmul_integer,
    "QLinearConv": _qlinear_conv,
    "QLinearMatMul": _qlinear_matmul,
}


@pytest.mark.parametrize("mode", ["float", "fixed_point_32"])
@pytest.mark.parametrize("name", APPLIES)
def test_of_onnx(name: str, mode: str) -> None:
    """Every code equal. In both modes: none of these numbers lies on the border between two codes."""
    test = _tests()[name]
    (node,) = test.model.graph.node
    assert test.data_sets
    for inputs, outputs in test.data_sets:
        wanted = _array(outputs[0])
        made = RUN[node.op_type](node, [_array(given) for given in inputs], mode)
        assert made.shape == wanted.shape
        assert np.array_equal(made, wanted.astype(made.dtype))
