"""Functions of one number, arithmetic, comparisons and choices."""

from __future__ import annotations

from typing import Any

import onnx_ir as ir
import torch
from torch.fx import Node

from halfstep.export.translation.writer import DATA_TYPES, Translate, Untranslatable, Writer, plain, rank


def _clip(writer: Writer, node: Node, arguments: list[Any]) -> ir.Value:
    x, low, high = arguments[:3]
    dtype = node.meta["dtype"]
    return writer.emit("Clip", [writer.operand(x, dtype), *(None if b is None else writer.operand(b, dtype) for b in (low, high))], node)


def _with_alpha(op_type: str, is_reversed: bool = False) -> Translate:
    """Add and sub, whose second operand may be scaled."""

    def emit(writer: Writer, node: Node, arguments: list[Any]) -> ir.Value:
        dtype = node.meta["dtype"]
        first, second = (writer.operand(x, dtype) for x in arguments[:2])
        if op_type == "Add" and arguments[2] == -1:
            return writer.emit("Sub", [first, second], node)
        if arguments[2] != 1:
            second = writer.emit("Mul", [second, writer.value(arguments[2], dtype)], node)
        return writer.emit(op_type, [second, first] if is_reversed else [first, second], node)

    return emit


def _divide(writer: Writer, node: Node, arguments: list[Any]) -> ir.Value:
    quotient = plain("Div", 2)(writer, node, arguments)
    assert isinstance(quotient, ir.Value)
    mode = arguments[2] if len(arguments) > 2 else None
    if mode is None:
        return quotient
    if mode != "floor" or not node.meta["dtype"].is_floating_point:
        raise Untranslatable(f"division rounded by {mode}")
    return writer.emit("Floor", [quotient], node)


def _compare(op_type: str, is_negated: bool = False) -> Translate:
    def emit(writer: Writer, node: Node, arguments: list[Any]) -> ir.Value:
        types = [x.meta["dtype"] for x in arguments[:2] if isinstance(x, Node)]
        dtype: torch.dtype = next((each for each in types if each.is_floating_point), types[0])
        if any(isinstance(x, float) for x in arguments[:2]) and not dtype.is_floating_point:
            dtype = torch.float32
        compared = writer.emit(op_type, [writer.operand(x, dtype) for x in arguments[:2]], node)
        return writer.emit("Not", [compared], node) if is_negated else compared

    return emit


def _logic(op_type: str, num_inputs: int = 2) -> Translate:
    """On booleans; ``bitwise_and`` and its kin are the same on them."""

    def emit(writer: Writer, node: Node, arguments: list[Any]) -> ir.Value:
        if node.meta["dtype"] is not torch.bool:
            raise Untranslatable(f"{op_type} on integers")
        return writer.emit(op_type, [writer.operand(x, torch.bool) for x in arguments[:num_inputs]], node)

    return emit


def _where(writer: Writer, node: Node, arguments: list[Any]) -> ir.Value:
    condition, first, second = arguments
    dtype = node.meta["dtype"]
    return writer.emit("Where", [writer.value(condition), writer.operand(first, dtype), writer.operand(second, dtype)], node)


def _cast(writer: Writer, node: Node, arguments: list[Any]) -> ir.Value:
    dtype = node.meta["dtype"]
    if dtype not in DATA_TYPES:
        raise Untranslatable(f"conversion to {dtype}")
    return writer.operand(arguments[0], dtype)


def _identity(writer: Writer, node: Node, arguments: list[Any]) -> ir.Value:
    return writer.value(arguments[0])


def _silu(writer: Writer, node: Node, arguments: list[Any]) -> ir.Value:
    x = writer.value(arguments[0])
    return writer.emit("Mul", [x, writer.emit("Sigmoid", [x], node)], node)


def _square(writer: Writer, node: Node, arguments: list[Any]) -> ir.Value:
    x = writer.value(arguments[0])
    return writer.emit("Mul", [x, x], node)


def _power(writer: Writer, node: Node, arguments: list[Any]) -> ir.Value:
    if arguments[1] == 2:
        return _square(writer, node, arguments)
    return writer.emit("Pow", [writer.operand(x, node.meta["dtype"]) for x in arguments[:2]], node)


def _after(second: str, first: str) -> Translate:
    """One function of another."""

    def emit(writer: Writer, node: Node, arguments: list[Any]) -> ir.Value:
        return writer.emit(second, [writer.emit(first, [writer.value(arguments[0])], node)], node)

    return emit


def _log1p(writer: Writer, node: Node, arguments: list[Any]) -> ir.Value:
    return writer.emit("Log", [writer.emit("Add", [writer.value(arguments[0]), writer.value(1.0)], node)], node)


def _gelu(writer: Writer, node: Node, arguments: list[Any]) -> ir.Value:
    return writer.emit("Gelu", [writer.value(arguments[0])], node, approximate=arguments[1])


def _softplus(writer: Writer, node: Node, arguments: list[Any]) -> ir.Value:
    x, beta, _ = arguments
    if beta != 1:
        raise Untranslatable("softplus with a beta")
    return writer.emit("Softplus", [writer.value(x)], node)


def _elu(writer: Writer, node: Node, arguments: list[Any]) -> ir.Value:
    x, alpha, scale, input_scale = arguments
    if scale != 1 or input_scale != 1:
        raise Untranslatable("elu with scales")
    return writer.emit("Elu", [writer.value(x)], node, alpha=float(alpha))


def _leaky_relu(writer: Writer, node: Node, arguments: list[Any]) -> ir.Value:
    return writer.emit("LeakyRelu", [writer.value(arguments[0])], node, alpha=float(arguments[1]))


def _prelu(writer: Writer, node: Node, arguments: list[Any]) -> ir.Value:
    x, slope = arguments
    value = writer.value(slope)
    if slope.meta["shape"] != (1,) and rank(x) > 2:
        value = writer.emit("Reshape", [value, writer.integers([-1] + [1] * (rank(x) - 2))], node)
    return writer.emit("PRelu", [writer.value(x), value], node)


TRANSLATIONS: dict[str, Translate] = {
    "relu.default": plain("Relu"),
    "relu6.default": lambda writer, node, arguments: _clip(writer, node, [arguments[0], 0.0, 6.0]),
    **dict.fromkeys(("hardtanh.default", "clamp.default", "clamp_min.default"), lambda w, n, a: _clip(w, n, [*a, None])),
    "clamp_max.default": lambda w, n, a: _clip(w, n, [a[0], None, a[1]]),
    "add.Tensor": _with_alpha("Add"),
    "sub.Tensor": _with_alpha("Sub"),
    "rsub.Scalar": _with_alpha("Sub", is_reversed=True),
    "mul.Tensor": plain("Mul", 2),
    **dict.fromkeys(("div.Tensor", "div.Tensor_mode"), _divide),
    **dict.fromkeys(("minimum.default", "min.other"), plain("Min", 2)),
    **dict.fromkeys(("maximum.default", "max.other"), plain("Max", 2)),
    **dict.fromkeys(("pow.Tensor_Scalar", "pow.Tensor_Tensor", "pow.Scalar"), _power),
    "square.default": _square,
    "neg.default": plain("Neg"),
    "abs.default": plain("Abs"),
    "sign.default": plain("Sign"),
    "sqrt.default": plain("Sqrt"),
    "rsqrt.default": _after("Reciprocal", "Sqrt"),
    "reciprocal.default": plain("Reciprocal"),
    "exp.default": plain("Exp"),
    "log.default": plain("Log"),
    "log1p.default": _log1p,
    "sin.default": plain("Sin"),
    "cos.default": plain("Cos"),
    "erf.default": plain("Erf"),
    "floor.default": plain("Floor"),
    "ceil.default": plain("Ceil"),
    "round.default": plain("Round"),
    "sigmoid.default": plain("Sigmoid"),
    "log_sigmoid.default": _after("Log", "Sigmoid"),
    "tanh.default": plain("Tanh"),
    "silu.default": _silu,
    "gelu.default": _gelu,
    "mish.default": plain("Mish"),
    "softplus.default": _softplus,
    "elu.default": _elu,
    "selu.default": plain("Selu"),
    "leaky_relu.default": _leaky_relu,
    "prelu.default": _prelu,
    "hardswish.default": plain("HardSwish"),
    "hardsigmoid.default": plain("HardSigmoid", alpha=1 / 6),
    **dict.fromkeys(("eq.Scalar", "eq.Tensor"), _compare("Equal")),
    **dict.fromkeys(("ne.Scalar", "ne.Tensor"), _compare("Equal", is_negated=True)),
    **dict.fromkeys(("gt.Scalar", "gt.Tensor"), _compare("Greater")),
    **dict.fromkeys(("ge.Scalar", "ge.Tensor"), _compare("GreaterOrEqual")),
    **dict.fromkeys(("lt.Scalar", "lt.Tensor"), _compare("Less")),
    **dict.fromkeys(("le.Scalar", "le.Tensor"), _compare("LessOrEqual")),
    **dict.fromkeys(("logical_not.default", "bitwise_not.default"), _logic("Not", 1)),
    **dict.fromkeys(("logical_and.default", "bitwise_and.Tensor", "__and__.Tensor"), _logic("And")),
    **dict.fromkeys(("logical_or.default", "bitwise_or.Tensor", "__or__.Tensor"), _logic("Or")),
    **dict.fromkeys(("where.self", "where.ScalarOther", "where.ScalarSelf", "where.Scalar"), _where),
    **dict.fromkeys(("masked_fill.Scalar", "masked_fill.Tensor"), lambda w, n, a: _where(w, n, [a[1], a[2], a[0]])),
    **dict.fromkeys(("to.dtype", "to.device", "to.dtype_layout", "to.other", "type_as.default", "_to_copy.default"), _cast),
    **dict.fromkeys(("clone.default", "contiguous.default", "alias.default", "detach.default", "dropout.default"), _identity),
}
