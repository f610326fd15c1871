"""TensorRT, from its documentation of explicit quantization; nothing of it is run here.

TensorRT's grids are symmetric: int8, zero point 0. It fuses a layer with the DQ before it, and the Q behind it where there is one. Its
parser refuses what no kernel of it could mean: uint8, zero points other than 0, DequantizeLinear of int32.
NVIDIA, "TensorRT documentation", chapters "Working with quantized types" and "Explicit quantization"; onnx-tensorrt, docs/operators.md.
"""

from __future__ import annotations

from halfstep.runtimes.operator import Operator
from halfstep.runtimes.predicates import (
    any_operator,
    has_16_bits,
    has_float_input,
    has_float_weight,
    has_nibbles,
    has_packed_weight,
    is_fused,
    is_integer_layer,
    is_layer,
)
from halfstep.runtimes.rule import Rule

_FORMS = (
    "Add", "Mul", "Concat", "MaxPool", "AveragePool", "GlobalAveragePool", "ReduceMean", "Resize", "Reshape", "Flatten", "Transpose",
    "Squeeze", "Unsqueeze", "Slice", "Split", "Identity",
)  # fmt: skip


def _is_unsigned(operator: Operator) -> bool:
    return any(codes.type.startswith("uint") for codes in operator.grids)


def _is_asymmetric(operator: Operator) -> bool:
    return any(not codes.is_symmetric for codes in operator.grids)


def _has_integer_bias(operator: Operator) -> bool:
    return operator.bias is not None and operator.bias.codes is not None


def _casts_weight(operator: Operator) -> bool:
    weight = operator.weight
    return weight is not None and weight.codes is not None and weight.codes.form in ("cast", "computed")


_INT8 = "Export with --target tensorrt: int8, zero point 0."
RULES = (
    Rule(lambda o: is_integer_layer(o) or has_packed_weight(o), False, "the operator is unknown to TensorRT", "Use Q and DQ.", True),
    Rule(lambda o: o.works_on_codes, False, "operators on codes are not read", "Put it before Q or behind DQ.", True),
    Rule(has_16_bits, False, "16-bit grids are not read", _INT8, True),
    Rule(_is_unsigned, False, "uint8 is not read", _INT8, True),
    Rule(_is_asymmetric, False, "a zero point other than 0 is not read", _INT8, True),
    Rule(_has_integer_bias, False, "a bias behind DequantizeLinear is not read", "Store the bias as floats.", True),
    Rule(is_fused, True),
    Rule(has_float_input, False, "an input is a float", "Quantize every input."),
    Rule(has_float_weight, False, "the weight is stored as floats", "Store it as int8 with a DequantizeLinear."),
    Rule(has_nibbles, False, "int4 weights are for float activations", "Store the weight as int8."),
    Rule(_casts_weight, False, "the weight is not an initializer", "Store the weight as int8."),
    Rule(is_layer, True),
    Rule(lambda o: o.op_type in _FORMS, True),
    Rule(any_operator, False, "there is no integer form of this operator", ""),
)  # fmt: skip
"""In the order they are asked."""
