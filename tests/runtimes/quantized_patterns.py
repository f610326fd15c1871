"""Small quantized graphs, one a rule: each holds one operator called ``judged`` and surroundings that runtimes do or do not fuse."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from onnx import ModelProto as Made
from onnx import TensorProto
from quantized_sketch import CHANNELS, SIZE, Sketch


def _conv(before: dict[str, Any] | None = None, weight: dict[str, Any] | None = None, after: dict[str, Any] | None = None,
          between: Callable[[Sketch, str], str] | None = None) -> Made:  # fmt: skip
    s = Sketch()
    y = s.conv(s.pair("x", **(before or {})), **(weight or {}))
    y = y if between is None else between(s, y)
    return s.finish(y if after is None else s.pair(y, **after))


Q: dict[str, Any] = {}
ZERO: dict[str, Any] = {"zero": 0}
INT8: dict[str, Any] = {"kind": "int8", "zero": 0}
INT16: dict[str, Any] = {"kind": "uint16", "zero": 32768}


def relu(s: Sketch, y: str) -> str:
    return s.add("Relu", y)


def clip6(s: Sketch, y: str) -> str:
    return s.add("Clip", y, s.constant(np.float32(0)), s.constant(np.float32(6)))


def _float_input() -> Made:
    s = Sketch()
    return s.finish(s.pair(s.conv("x")))


def _behind(moved: Callable[[Sketch, str], str]) -> Made:
    s = Sketch()
    return s.finish(s.pair(s.conv(moved(s, s.pair("x")))))


def _two_readers() -> Made:
    s = Sketch()
    y = s.conv(s.pair("x"))
    return s.finish(s.pair(y), s.add("Sigmoid", y))


def _int8_branch() -> Made:
    s = Sketch()
    x = s.pair("x", **INT8)
    return s.finish(s.pair(s.conv(x), **INT8), s.pair(s.conv(x, name="other"), **INT8))


def _int8_branches() -> Made:
    s = Sketch()
    x = s.pair("x", **INT8)
    y = s.pair(s.conv(x), **INT8)
    z = s.pair(s.add("Add", x, y), **INT8)
    return s.finish(s.pair(s.add("Mul", y, z), **INT8))


def _conv_bias(factor: float) -> Made:
    """An int32 bias whose scale is ``factor`` times that of the accumulator."""
    s = Sketch()
    codes, scale = s.constant(np.arange(CHANNELS, dtype=np.int32)), s.constant(np.full(CHANNELS, 0.02 * 0.02 * factor, np.float32))
    bias = s.add("DequantizeLinear", codes, scale, axis=0)
    return s.finish(s.pair(s.judged("Conv", s.pair("x"), s.weight((CHANNELS, CHANNELS, 3, 3)), bias, pads=[1, 1, 1, 1])))


def _int8_pool() -> Made:
    s = Sketch()
    y = s.pair(s.judged("MaxPool", s.pair("x", **INT8), kernel_shape=[2, 2]), **INT8)
    return s.finish(s.pair(s.conv(y, name="one"), **INT8), s.pair(s.conv(y, name="other"), **INT8))


def _clipped_codes() -> Made:
    s = Sketch()
    codes = s.add("Clip", s.quantize("x"), s.constant(np.uint8(120)), s.constant(np.uint8(135)))
    return s.finish(s.pair(s.conv(s.dequantize(codes))))


def _conv_transpose(grid: dict[str, Any] = Q) -> Made:
    s = Sketch()
    y = s.judged("ConvTranspose", s.pair("x", **grid), s.weight((CHANNELS, CHANNELS, 3, 3), axis=1))
    return s.finish(s.pair(y))


def _conv_1d() -> Made:
    s = Sketch(shape=(1, CHANNELS, SIZE))
    y = s.judged("Conv", s.pair("x"), s.weight((CHANNELS, CHANNELS, 3)))
    return s.finish(s.pair(y))


def _light(
    op_type: str,
    inputs: int = 1,
    after: bool = True,
    second: dict[str, Any] | None = None,
    constants: tuple[Any, ...] = (),
    before: dict[str, Any] | None = None,
    **attributes: Any,
) -> Made:
    s = Sketch()
    operands = [s.pair("x", **(before or {}))]
    if inputs == 2:
        operands.append("x" if second is None else s.pair(s.add("Neg", "x"), **second))
    y = s.judged(op_type, *operands, *("" if value is None else s.constant(value) for value in constants), **attributes)
    return s.finish(s.pair(y) if after else y)


MATRIX = (4, 32)


def _gemm(
    has_grid: bool, before: dict[str, Any] | None = Q, after: dict[str, Any] | None = None, bias: str | None = "float", **weight: Any
) -> Made:
    s = Sketch(shape=MATRIX)
    x = "x" if before is None else s.pair("x", **before)
    operands = [x, s.weight((16, 32), **weight)]
    if bias in ("int32", "other"):
        scale = s.constant(np.full(16, 0.02 * 0.02 * (1.0 if bias == "int32" else 1.1), np.float32))
        operands.append(s.add("DequantizeLinear", s.constant(np.arange(16, dtype=np.int32)), scale, axis=0))
    elif bias == "float":
        operands.append(s.constant(np.zeros(16, np.float32)))
    y = s.judged("Gemm", *operands, transB=1)
    return s.finish(s.pair(y, **(after or {})) if has_grid else y)


def _matmul(has_grid: bool, before: dict[str, Any] | None = Q, after: dict[str, Any] | None = None, **weight: Any) -> Made:
    s = Sketch(shape=(2, 4, 32))
    x = "x" if before is None else s.pair("x", **before)
    y = s.judged("MatMul", x, s.weight((32, 16), axis=1, **weight))
    return s.finish(s.pair(y, **(after or {})) if has_grid else y)


def _gemm_behind() -> Made:
    s = Sketch(shape=(1, 8, 2, 2))
    flat = s.add("Reshape", s.pair("x"), s.constant(np.array([0, -1])))
    return s.finish(s.pair(s.judged("Gemm", flat, s.weight((16, 32)), transB=1)))


def _unpacked(num_bits: int = 4) -> Made:
    s = Sketch()
    codes = s.random.integers(-(1 << num_bits - 1), 1 << num_bits - 1, (CHANNELS, CHANNELS, 3, 3))
    count = 8 // num_bits
    parts = (codes + (1 << num_bits - 1)).reshape(count, -1).astype(np.uint8)
    packed = np.zeros(parts.shape[1], np.uint8)
    for index in range(count):
        packed |= parts[index] << (num_bits * index)
    stored = s.constant(packed)
    rows = []
    for index in range(count):
        shifted = s.add("BitShift", stored, s.constant(np.full(1, num_bits * index, np.uint8)), direction="RIGHT")
        rows.append(s.add("BitwiseAnd", shifted, s.constant(np.full(1, (1 << num_bits) - 1, np.uint8))))
    whole = s.add("Reshape", s.add("Concat", *rows, axis=0), s.constant(np.array(codes.shape)))
    signed = s.add("Sub", s.add("Cast", whole, to=TensorProto.INT8), s.constant(np.full(1, 1 << num_bits - 1, np.int8)))
    w = s.add("DequantizeLinear", signed, s.constant(np.full(CHANNELS, 0.02, np.float32)), s.constant(np.zeros(CHANNELS, np.int8)), axis=0)
    return s.finish(s.pair(s.judged("Conv", s.pair("x"), w, pads=[1, 1, 1, 1])))


def _two_matrices(**grid: Any) -> Made:
    s = Sketch(shape=(2, 8, 8))
    y = s.judged("MatMul", s.pair("x", **grid), s.pair(s.add("Neg", "x"), **grid))
    return s.finish(s.pair(y))


def _qlinear_conv(kind: str, zero: int) -> Made:
    s = Sketch()
    codes = s.quantize("x", kind, zero)
    scale, point = s.constant(np.float32(0.02)), s.constant(np.array(zero, kind))
    w = s.constant(s.random.integers(-7, 8, (CHANNELS, CHANNELS, 3, 3)).astype(np.int8))
    y = s.judged("QLinearConv", codes, scale, point, w, scale, s.constant(np.int8(0)), scale, point, pads=[1, 1, 1, 1])
    return s.finish(s.dequantize(y, kind, zero))


def _conv_integer() -> Made:
    s = Sketch()
    w = s.constant(s.random.integers(-7, 8, (CHANNELS, CHANNELS, 3, 3)).astype(np.int8))
    y = s.judged("ConvInteger", s.quantize("x"), w, s.constant(np.uint8(128)))
    return s.finish(s.add("Cast", y, to=TensorProto.FLOAT))


def _qlinear_add() -> Made:
    s = Sketch()
    codes = s.quantize("x")
    scale, point = s.constant(np.float32(0.02)), s.constant(np.uint8(128))
    return s.finish(s.dequantize(s.judged("QLinearAdd", *(codes, scale, point) * 2, scale, point, domain="com.microsoft")))


def _dynamic() -> Made:
    s = Sketch(shape=(2, 4, 32))
    codes = s.add("DynamicQuantizeLinear", "x")
    s.nodes[-1].output.extend(["x_scale", "x_zero"])
    y = s.judged("MatMulInteger", codes, s.constant(s.random.integers(-7, 8, (32, 16)).astype(np.int8)), "x_zero")
    return s.finish(s.add("Mul", s.add("Cast", y, to=TensorProto.FLOAT), "x_scale"))


PATTERNS: dict[str, Callable[[], Made]] = {
    "conv": lambda: _conv(Q, after=Q),
    "conv_no_output_grid": lambda: _conv(Q),
    "conv_float_input": _float_input,
    "conv_float_weight": lambda: _conv(Q, {"form": "float"}, Q),
    "conv_cast_nibbles": lambda: _conv(Q, {"form": "cast"}, Q),
    "conv_nibbles": lambda: _conv(Q, {"form": "nibbles"}, Q),
    "conv_rounded_weight": lambda: _conv(Q, {"form": "rounded"}, Q),
    "conv_requantized_nibbles": lambda: _conv(Q, {"form": "requantized"}, Q),
    "conv_uint8_weight": lambda: _conv(Q, {"kind": "uint8"}, Q),
    "conv_asymmetric_weight": lambda: _conv(Q, {"zero": 3}, Q),
    "conv_16_bit": lambda: _conv(INT16, after=INT16),
    "conv_16_bit_output": lambda: _conv(Q, after=INT16),
    "conv_int8": lambda: _conv(INT8, after=INT8),
    "conv_int8_to_uint8": lambda: _conv(INT8, after=Q),
    "conv_int8_branch": _int8_branch,
    "conv_int8_branch_out_branch": _int8_branches,
    "conv_relu": lambda: _conv(Q, after=ZERO, between=relu),
    "conv_relu_symmetric": lambda: _conv(Q, after={"zero": 128}, between=relu),
    "conv_relu_zero_10": lambda: _conv(Q, after={"zero": 10}, between=relu),
    "conv_relu_int8": lambda: _conv(INT8, after=INT8, between=relu),
    "conv_relu_int8_lowest": lambda: _conv({"kind": "int8", "zero": -128}, after={"kind": "int8", "zero": -128}, between=relu),
    "conv_clip6_narrow": lambda: _conv(Q, after={"zero": 0, "scale": 0.02}, between=clip6),
    "conv_clip6_wide": lambda: _conv(Q, after={"zero": 0, "scale": 0.04}, between=clip6),
    "conv_sigmoid": lambda: _conv(Q, after=Q, between=lambda s, y: s.add("Sigmoid", y)),
    "conv_pair_sigmoid": lambda: _conv(Q, after=Q, between=lambda s, y: s.add("Sigmoid", s.pair(y, scale=0.03))),
    "conv_pair_hardswish": lambda: _conv(Q, after=Q, between=lambda s, y: s.add("HardSwish", s.pair(y, scale=0.03))),
    "conv_hardswish": lambda: _conv(Q, after=Q, between=lambda s, y: s.add("HardSwish", y)),
    "conv_add": lambda: _conv(Q, after=Q, between=lambda s, y: s.add("Add", y, s.nodes[1].output[0])),
    "conv_reshape": lambda: _conv(Q, after=Q, between=lambda s, y: s.add("Reshape", y, s.constant(np.array([1, -1])))),
    "conv_transpose_layout": lambda: _conv(Q, after=Q, between=lambda s, y: s.add("Transpose", y, perm=[0, 2, 3, 1])),
    "conv_max_pool": lambda: _conv(Q, after=Q, between=lambda s, y: s.add("MaxPool", y, kernel_shape=[2, 2])),
    "conv_batch_norm": lambda: _conv(Q, after=Q, between=lambda s, y: s.add(
        "BatchNormalization", y, *(s.constant(np.full(CHANNELS, v, np.float32)) for v in (1.5, 0.1, 0.2, 1.0)))),
    "conv_two_readers": _two_readers,
    "conv_behind_pool": lambda: _behind(lambda s, x: s.add("MaxPool", x, kernel_shape=[2, 2])),
    "conv_behind_relu": lambda: _behind(relu),
    "conv_behind_pad": lambda: _behind(lambda s, x: s.add("Pad", x, s.constant(np.array([0, 0, 1, 1, 0, 0, 1, 1])))),
    "conv_behind_slice": lambda: _behind(lambda s, x: s.add("Slice", x, *(s.constant(np.array(v)) for v in ([0], [4], [2])))),
    "conv_behind_transpose": lambda: _behind(lambda s, x: s.add("Transpose", x, perm=[0, 1, 3, 2])),
    "conv_clipped_codes": _clipped_codes,
    "conv_transpose": _conv_transpose,
    "conv_1d": _conv_1d,
    "add": lambda: _light("Add", 2, second=Q),
    "add_int8": lambda: _light("Add", 2, second=INT8, before=INT8),
    "add_float_shortcut": lambda: _light("Add", 2),
    "add_no_output_grid": lambda: _light("Add", 2, after=False, second=Q),
    "mul": lambda: _light("Mul", 2, second=Q),
    "sub": lambda: _light("Sub", 2, second=Q),
    "div": lambda: _light("Div", 2, second=Q),
    "add_number": lambda: _light("Add", constants=(np.float32(3),)),
    "concat": lambda: _light("Concat", 2, second={"scale": 0.03}, axis=1),
    "concat_same_grid": lambda: _light("Concat", 2, second=Q, axis=1),
    "max_pool": lambda: _light("MaxPool", kernel_shape=[2, 2]),
    "conv_bias": lambda: _conv_bias(1.0),
    "conv_bias_of_nearly_that_scale": lambda: _conv_bias(1.01),
    "conv_bias_of_another_scale": lambda: _conv_bias(1.1),
    "gemm_bias_of_another_scale": lambda: _gemm(False, bias="other"),
    "max_pool_int8_branch": _int8_pool,
    "average_pool": lambda: _light("AveragePool", kernel_shape=[2, 2]),
    "average_pool_no_output_grid": lambda: _light("AveragePool", after=False, kernel_shape=[2, 2]),
    "global_average_pool": lambda: _light("GlobalAveragePool"),
    "reduce_mean": lambda: _light("ReduceMean", constants=(np.array([2, 3]),)),
    "resize_nearest": lambda: _light("Resize", constants=(None, np.array([1, 1, 2, 2], np.float32)), mode="nearest"),
    "resize_linear": lambda: _light("Resize", constants=(None, np.array([1, 1, 2, 2], np.float32)), mode="linear"),
    "softmax": lambda: _light("Softmax", axis=1),
    "sigmoid": lambda: _light("Sigmoid"),
    "leaky_relu": lambda: _light("LeakyRelu", alpha=0.1),
    "relu": lambda: _light("Relu"),
    "tanh": lambda: _light("Tanh"),
    "hard_swish": lambda: _light("HardSwish"),
    "gelu": lambda: _light("Gelu"),
    "pad": lambda: _light("Pad", constants=(np.array([0, 0, 1, 1, 0, 0, 1, 1]),)),
    "slice": lambda: _light("Slice", constants=(np.array([0]), np.array([4]), np.array([2]))),
    "transpose": lambda: _light("Transpose", perm=[0, 2, 3, 1]),
    "reshape": lambda: _light("Reshape", constants=(np.array([1, -1]),)),
    "where_like": lambda: _light("Max", 2, second=Q),
    "gemm": lambda: _gemm(True),
    "gemm_no_output_grid": lambda: _gemm(False),
    "gemm_nibbles": lambda: _gemm(False, form="nibbles"),
    "gemm_cast_nibbles": lambda: _gemm(False, form="cast"),
    "gemm_asymmetric": lambda: _gemm(False, zero=3),
    "gemm_uint8": lambda: _gemm(False, kind="uint8"),
    "gemm_int8": lambda: _gemm(True, before=INT8, after=INT8),
    "gemm_float_input": lambda: _gemm(False, before=None),
    "matmul": lambda: _matmul(True),
    "matmul_no_output_grid": lambda: _matmul(False),
    "matmul_nibbles": lambda: _matmul(False, form="nibbles"),
    "matmul_cast_nibbles": lambda: _matmul(False, form="cast"),
    "matmul_float_input": lambda: _matmul(False, before=None),
    "matmul_float_input_nibbles": lambda: _matmul(False, before=None, form="nibbles"),
    "matmul_int8": lambda: _matmul(True, before=INT8, after=INT8),
    "matmul_int8_no_output_grid": lambda: _matmul(False, before=INT8),
    "matmul_two_activations": _two_matrices,
    "matmul_two_activations_int8": lambda: _two_matrices(**INT8),
    "matmul_two_activations_zero": lambda: _two_matrices(**ZERO),
    "gemm_int32_bias": lambda: _gemm(False, bias="int32"),
    "gemm_no_bias": lambda: _gemm(False, bias=None),
    "gemm_int32_bias_cast": lambda: _gemm(False, bias="int32", form="cast"),
    "gemm_behind_reshape": _gemm_behind,
    "conv_transpose_int8": lambda: _conv_transpose(INT8),
    "conv_transpose_zero": lambda: _conv_transpose(ZERO),
    "conv_unpacked": _unpacked,
    "conv_unpacked_quarters": lambda: _unpacked(2),
    "qlinear_conv": lambda: _qlinear_conv("uint8", 128),
    "qlinear_conv_int8": lambda: _qlinear_conv("int8", 0),
    "conv_integer": _conv_integer,
    "qlinear_add": _qlinear_add,
    "dynamic_matmul": _dynamic,
}  # fmt: skip
"""By name, what draws it."""
