"""ONNX Runtime on x64 CPUs, measured with version 1.31: which operators its optimizer fuses with the Q and DQ around them.

ONNX Runtime looks at an operator with its DequantizeLinear inputs and the QuantizeLinear behind it, and replaces them by one integer
operator where the pattern is complete. Signed activations are rewritten to uint8 first, but only tensors that one operator reads.
`check` compares every rule with the graph ONNX Runtime really makes.
"""

from __future__ import annotations

import numpy as np

from halfstep.runtimes.operator import ON_CODES, Codes, Operator
from halfstep.runtimes.predicates import (
    any_operator,
    has_16_bits,
    has_asymmetric_weight,
    has_float_input,
    has_float_weight,
    has_nibbles,
    has_no_result,
    has_packed_weight,
    has_unsigned_weight,
    is_absorbed_clip,
    is_integer_layer,
    is_layer,
)
from halfstep.runtimes.rule import Rule

_FORMS = (
    "Conv", "Gemm", "MatMul", "Add", "Mul", "Concat", "MaxPool", "AveragePool", "GlobalAveragePool", "Softmax", "Sigmoid", "LeakyRelu",
    "Split", "Where", "Gather", "DepthToSpace", "Expand", "Tile",
)  # fmt: skip
_MOVING = ("Reshape", "Flatten", "Transpose", "Squeeze", "Unsqueeze", "MaxPool", "Slice", "Identity", "Gather", "Split")
_ARITHMETIC = ("Conv", "Add", "Mul", "AveragePool", "GlobalAveragePool", "Softmax", "Sigmoid", "LeakyRelu", "Concat")


_BIAS_TOLERANCE = 0.02  # 1 % is taken as equal, 10 % is not


def _kept_type(codes: Codes) -> str:
    """The type ONNX Runtime works with: int8 between one Q and one reader becomes uint8."""
    return "uint8" if codes.type == "int8" and codes.num_readers == 1 else codes.type


def _is_signed_kernel(operator: Operator) -> bool:
    return operator.op_type in ("QLinearConv", "QLinearMatMul") and operator.input is not None and operator.input.type == "int8"


def _reads_kept_int8(operator: Operator) -> bool:
    """Activations of type int8 that stay so, before or behind an operator whose kernel wants uint8."""
    if operator.op_type not in ("Conv", "Add", "Mul"):
        return False
    grids = [operand.codes for operand in operator.activations]
    return any(codes is not None and _kept_type(codes) == "int8" for codes in (*grids, operator.result))


def _moves_between_types(operator: Operator) -> bool:
    before, behind = operator.input, operator.result
    if operator.op_type not in _MOVING or before is None or behind is None:
        return False
    return _kept_type(before) != _kept_type(behind)


def _is_separated(operator: Operator) -> bool:
    """A function stands between it and its grid that the grid does not repeat."""
    return operator.op_type in _ARITHMETIC and operator.between != "" and not operator.is_absorbed


def _is_clip_of_grid(operator: Operator) -> bool:
    return operator.op_type in ("Relu", "Clip") and not operator.works_on_codes


def _has_weights_only(operator: Operator) -> bool:
    weight = operator.weight
    return operator.op_type == "MatMul" and weight is not None and weight.codes is not None and has_float_input(operator)


def _has_float_constant(operator: Operator) -> bool:
    """An element-wise operator or a concatenation with a stored float operand."""
    return operator.op_type in ("Add", "Mul", "Concat") and any(x.is_constant and x.codes is None for x in operator.operands)


def _is_nearest_resize(operator: Operator) -> bool:
    return operator.op_type == "Resize" and operator.mode in ("", "nearest") and not has_no_result(operator)


def _is_rounded_each_time(operator: Operator) -> bool:
    weight = operator.weight
    return weight is not None and weight.codes is not None and weight.codes.form == "requantized"


def _lacks_result(operator: Operator) -> bool:
    """No grid behind an operator whose integer kernel writes integers only."""
    return has_no_result(operator) and operator.op_type in _ARITHMETIC


def _has_foreign_bias(operator: Operator) -> bool:
    """An int32 bias of a convolution on another grid than that of the accumulator."""
    weight, bias = operator.weight, operator.bias
    if operator.op_type != "Conv" or bias is None or bias.codes is None or weight is None or weight.codes is None or operator.input is None:
        return False
    scales = [codes.scale for codes in (operator.input, weight.codes, bias.codes)]
    if any(scale is None for scale in scales):
        return False
    return not np.allclose(scales[0] * scales[1], scales[2], rtol=_BIAS_TOLERANCE, atol=0.0)  # type: ignore[operator, arg-type]


def _has_float_bias(operator: Operator) -> bool:
    """A Gemm without a grid behind it, whose bias is a float."""
    return operator.op_type == "Gemm" and has_no_result(operator) and operator.bias is not None and operator.bias.codes is None


_WITH_Q = "Quantize the output, too."
RULES = (
    Rule(_is_signed_kernel, True, "int8 activations have no fast kernel on x64: slower than float", "Use uint8 activations."),
    Rule(is_integer_layer, True),
    Rule(has_packed_weight, False, "the weights alone are integers", ""),
    Rule(lambda o: o.works_on_codes and o.op_type in ON_CODES, True),
    Rule(is_absorbed_clip, True),
    Rule(_moves_between_types, False, "one side of it stays int8, the other becomes uint8", "Use uint8 activations."),
    Rule(lambda o: o.op_type in _MOVING and not has_no_result(o), True),
    Rule(_has_weights_only, False, "the weights alone are integers: the input is a float", "Quantize the input for integer arithmetic."),
    Rule(_has_float_constant, False, "a constant that it reads is a float", "Quantize it, too."),
    Rule(has_float_input, False, "an input is a float", "Quantize every input."),
    Rule(has_16_bits, False, "16-bit grids run in float", "Use 8 bits."),
    Rule(has_nibbles, False, "weights of less than 8 bits are dequantized at every call", "Put Cast to int8 before DequantizeLinear."),
    Rule(lambda o: o.op_type in _MOVING, True),
    Rule(_is_clip_of_grid, False, "a clip between Q and DQ stays a float operator", "Leave it to the grid of the operator before it."),
    Rule(_is_nearest_resize, True),
    Rule(lambda o: o.op_type not in _FORMS, False, "there is no integer form of this operator", ""),
    Rule(_is_separated, False, "a function stands between it and its Q", "Put Q and DQ between them, or a grid that clips alike."),
    Rule(_lacks_result, False, "no Q behind it", _WITH_Q),
    Rule(_has_float_bias, False, "no Q behind it and a float bias", "Store the bias as int32 with DQ, or quantize the output."),
    Rule(_has_foreign_bias, False, "its bias is not on the grid of its accumulator", "Give the bias scale_input * scale_weight."),
    Rule(_reads_kept_int8, False, "int8 activations that several operators read stay int8", "Use uint8 activations."),
    Rule(has_unsigned_weight, True, "uint8 weights have no VNNI kernel: about 2.5 times slower than int8", "Store the weights as int8."),
    Rule(has_asymmetric_weight, True, "weights with a zero point: about a third slower", "Use symmetric weights."),
    Rule(_is_rounded_each_time, True, "its weight is rounded again at every call", "Put Cast to int8 in place of DQ and Q."),
    Rule(lambda o: is_layer(o) and has_float_weight(o), True, "ONNX Runtime rounds the float weight itself", "Store the weight as int8."),
    Rule(any_operator, True),
)  # fmt: skip
"""In the order they are asked."""
