"""What the tables of rules ask about an operator."""

from __future__ import annotations

from halfstep.runtimes.operator import FUSED, LAYERS, Codes, Operator

INTEGER_LAYERS = ("QLinearConv", "QLinearMatMul", "ConvInteger", "MatMulInteger")
"""Operators of ONNX itself that read and write integers."""

CONTRIBUTED = (
    "QGemm", "QLinearAdd", "QLinearMul", "QLinearConcat", "QLinearSigmoid", "QLinearLeakyRelu", "QLinearSoftmax", "QLinearAveragePool",
    "QLinearGlobalAveragePool", "QLinearReduceMean", "QLinearWhere", "NhwcMaxPool", "MatMulIntegerToFloat", "DynamicQuantizeMatMul",
    "MatMulInteger16", "QAttention", "QEmbedLayerNormalization",
)  # fmt: skip
"""ONNX Runtime's own integer operators, domain com.microsoft."""

PACKED = ("MatMulNBits", "GatherBlockQuantized")
"""Operators whose weights are packed integers and whose arithmetic is float."""


def any_operator(operator: Operator) -> bool:
    """Every operator: the last rule of a table."""
    return True


def is_integer_layer(operator: Operator) -> bool:
    """Integers in, integers out, by the operator's own definition."""
    return operator.op_type in INTEGER_LAYERS or (operator.op_type in CONTRIBUTED and operator.domain == "com.microsoft")


def is_layer(operator: Operator) -> bool:
    """A convolution or matrix product in its float form, whose grids stand around it."""
    return operator.op_type in LAYERS


def is_absorbed_clip(operator: Operator) -> bool:
    """A ReLU or Clip that the saturation of the grid behind it repeats."""
    return operator.op_type in ("Relu", "Clip") and operator.is_absorbed


def is_fused(operator: Operator) -> bool:
    """A function that is computed on the accumulator of the layer before it, with a grid behind it."""
    return operator.follows_layer and operator.op_type in FUSED and operator.result is not None


def has_packed_weight(operator: Operator) -> bool:
    """Weights alone are integers."""
    return operator.op_type in PACKED


def has_float_input(operator: Operator) -> bool:
    """Something that it computes with, and that depends on the network's input, is a float."""
    return any(operand.codes is None for operand in operator.activations)


def has_float_weight(operator: Operator) -> bool:
    """A layer whose weight is stored as floats."""
    return operator.weight is not None and operator.weight.codes is None


def has_16_bits(operator: Operator) -> bool:
    """A grid before or behind it has 16 bits."""
    return any(codes.type.endswith("16") for codes in operator.grids)


def has_nibbles(operator: Operator) -> bool:
    """A weight of less than 8 bits that goes into DequantizeLinear as it is."""
    codes = _weight(operator)
    return codes is not None and codes.type.lstrip("uint") in ("4", "2")


def has_unsigned_weight(operator: Operator) -> bool:
    """A weight stored as uint8."""
    codes = _weight(operator)
    return codes is not None and codes.type == "uint8"


def has_asymmetric_weight(operator: Operator) -> bool:
    """A weight with a zero point that is not 0, or not known."""
    codes = _weight(operator)
    return codes is not None and not codes.is_symmetric


def has_no_result(operator: Operator) -> bool:
    """No QuantizeLinear is all that reads what it computes."""
    return operator.result is None


def _weight(operator: Operator) -> Codes | None:
    return None if operator.weight is None else operator.weight.codes
