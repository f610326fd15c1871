"""OpenVINO on x64 CPUs, measured with version 2026.4: which operators its low-precision transformations run as integers.

OpenVINO reads Q and DQ as FakeQuantize and moves the scales behind layers whose two operands are integers; a grid behind a layer is not
needed. Element-wise functions run in float inside the kernel of the layer before them or in one generated kernel.
"""

from __future__ import annotations

from halfstep.runtimes.operator import ON_CODES, Operator
from halfstep.runtimes.predicates import (
    any_operator,
    has_16_bits,
    has_asymmetric_weight,
    has_float_input,
    has_float_weight,
    has_nibbles,
    has_packed_weight,
    has_unsigned_weight,
    is_absorbed_clip,
    is_fused,
    is_layer,
)
from halfstep.runtimes.rule import Rule

_LAYERS = ("QLinearConv", "QLinearMatMul")
_POOLS = ("AveragePool", "GlobalAveragePool", "ReduceMean", "MaxPool")
_MOVING = ("Reshape", "Flatten", "Transpose", "Squeeze", "Unsqueeze", "Slice", "Identity", "Concat", "Split", "DepthToSpace", "Gather")


def _computes_weight(operator: Operator) -> bool:
    weight = operator.weight
    return weight is not None and weight.codes is not None and weight.codes.form == "computed"


def _has_asymmetric_activations(operator: Operator) -> bool:
    """A transposed convolution or a product of two activations, with a zero point that is not 0."""
    two = operator.op_type == "MatMul" and len(operator.activations) == 2
    grids = [operand.codes for operand in operator.activations]
    return (two or operator.op_type == "ConvTranspose") and any(codes is not None and not codes.is_symmetric for codes in grids)


def _multiplies_unsigned(operator: Operator) -> bool:
    grids = [operand.codes for operand in operator.activations]
    return operator.op_type == "MatMul" and len(grids) == 2 and all(codes is not None and codes.type == "uint8" for codes in grids)


_SYMMETRIC = "Use symmetric int8 weights."
RULES = (
    Rule(lambda o: o.op_type in _LAYERS, True),
    Rule(lambda o: o.op_type in ("ConvInteger", "MatMulInteger"), False, "it is computed in float", "Use QLinear or Q and DQ."),
    Rule(has_packed_weight, False, "the weights alone are integers", ""),
    Rule(lambda o: o.works_on_codes and o.op_type in ON_CODES, True),
    Rule(is_absorbed_clip, True),
    Rule(is_fused, True),
    Rule(has_float_input, False, "an input is a float", "Quantize every input."),
    Rule(has_16_bits, False, "16-bit grids run in float", "Use 8 bits."),
    Rule(has_float_weight, False, "the weight is stored as floats", "Store it as int8 with a DequantizeLinear."),
    Rule(has_nibbles, False, "weights of less than 8 bits are dequantized", "Put Cast to int8 before DequantizeLinear."),
    Rule(_computes_weight, False, "the weight's codes are unpacked at every call", "Store int8, or int4 with Cast to int8."),
    Rule(has_unsigned_weight, False, "uint8 weights run in float", _SYMMETRIC),
    Rule(has_asymmetric_weight, False, "weights with a zero point run in float", _SYMMETRIC),
    Rule(_has_asymmetric_activations, False, "a zero point other than 0 is not moved through it", "Use symmetric int8 for its inputs."),
    Rule(_multiplies_unsigned, False, "two unsigned activations are multiplied in float", "Use symmetric int8 for one of them."),
    Rule(is_layer, True),
    Rule(lambda o: o.op_type in (*_POOLS, *_MOVING), True),
    Rule(any_operator, False, "it is a float function inside an integer kernel, or beside it", ""),
)  # fmt: skip
"""In the order they are asked."""
