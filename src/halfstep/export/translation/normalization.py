"""Normalizations, softmax, and reductions over axes."""

from __future__ import annotations

from typing import Any

import onnx_ir as ir
import torch
from torch import nn
from torch.fx import Node

from halfstep.export.translation.writer import Translate, Untranslatable, Writer, rank
from halfstep.graph.operators import module_of


def batch_norm(writer: Writer, node: Node) -> ir.Value:
    """The call of a batch norm's module."""
    module, x = module_of(node), writer.value(node.args[0])
    if not isinstance(module, nn.modules.batchnorm._BatchNorm) or module.running_mean is None or module.running_var is None:
        raise Untranslatable(type(module).__name__)
    ones = torch.ones_like(module.running_mean)
    state = {"weight": module.weight, "bias": module.bias, "running_mean": module.running_mean, "running_var": module.running_var}
    tensors = {name: ones * (name == "weight") if tensor is None else tensor for name, tensor in state.items()}
    inputs = [writer.stored(f"{node.target}.{name}", tensor) for name, tensor in tensors.items()]
    return writer.emit("BatchNormalization", [x, *inputs], node, epsilon=float(module.eps))


def _layer_norm(writer: Writer, node: Node, arguments: list[Any]) -> ir.Value:
    x, shape, weight, bias, epsilon = arguments[:5]
    if not all(isinstance(size, int) for size in shape):
        raise Untranslatable("layer norm over a computed shape")
    gain = writer.stored("ones_" + "_".join(map(str, shape)), torch.ones(shape)) if weight is None else writer.value(weight)
    inputs = [writer.value(x), gain, *([] if bias is None else [writer.value(bias)])]
    return writer.emit("LayerNormalization", inputs, node, axis=-len(shape), epsilon=float(epsilon))


def _rms_norm(writer: Writer, node: Node, arguments: list[Any]) -> ir.Value:
    x, shape, weight, epsilon = arguments
    epsilon = torch.finfo(node.meta["dtype"]).eps if epsilon is None else epsilon
    value = writer.value(x)
    mean = writer.emit("ReduceMean", [writer.emit("Mul", [value, value], node), writer.integers(list(range(-len(shape), 0)))], node)
    root = writer.emit("Sqrt", [writer.emit("Add", [mean, writer.value(float(epsilon))], node)], node)
    normed = writer.emit("Div", [value, root], node)
    return normed if weight is None else writer.emit("Mul", [normed, writer.value(weight)], node)


def _group_norm(writer: Writer, node: Node, arguments: list[Any]) -> ir.Value:
    """An instance norm of the groups."""
    x, groups, weight, bias, epsilon = arguments[:5]
    shape = node.meta["shape"]
    flat = writer.emit("Reshape", [writer.value(x), writer.integers([0, groups, -1])], node)
    state = [writer.stored(f"{kind}_{groups}", make(groups)) for kind, make in (("ones", torch.ones), ("zeros", torch.zeros))]
    normed = writer.reshape(writer.emit("InstanceNormalization", [flat, *state], node, epsilon=float(epsilon)), node, shape)
    for op_type, stored in (("Mul", weight), ("Add", bias)):
        if stored is not None:
            by_channel = writer.emit("Reshape", [writer.value(stored), writer.integers([-1] + [1] * (len(shape) - 2))], node)
            normed = writer.emit(op_type, [normed, by_channel], node)
    return normed


def _instance_norm(writer: Writer, node: Node, arguments: list[Any]) -> ir.Value:
    x, weight, bias, _, _, uses_input, _, epsilon = arguments[:8]
    if not uses_input:
        raise Untranslatable("instance norm with stored statistics")
    count = node.meta["shape"][1]
    gain = writer.stored(f"ones_{count}", torch.ones(count)) if weight is None else writer.value(weight)
    offset = writer.stored(f"zeros_{count}", torch.zeros(count)) if bias is None else writer.value(bias)
    return writer.emit("InstanceNormalization", [writer.value(x), gain, offset], node, epsilon=float(epsilon))


def _softmax(op_type: str) -> Translate:
    def emit(writer: Writer, node: Node, arguments: list[Any]) -> ir.Value:
        value = writer.emit(op_type, [writer.operand(arguments[0], node.meta["dtype"])], node, axis=arguments[1])
        value.shape = ir.Shape(node.meta["shape"])  # `softmax_guard` asks for the length of its rows
        return value

    return emit


def _axes(axes: Any) -> list[int] | None:
    return [axes] if isinstance(axes, int) else list(axes) if axes else None


def _reduced(writer: Writer, node: Node, op_type: str, x: ir.Value, axes: list[int] | None, keeps: bool) -> ir.Value:
    return writer.emit(op_type, [x, *([] if axes is None else [writer.integers(axes)])], node, keepdims=int(keeps))


def _reduce(op_type: str) -> Translate:
    """``op(x, axes, keepdim, ...)``; without axes over all of them."""

    def emit(writer: Writer, node: Node, arguments: list[Any]) -> ir.Value:
        x, axes, keeps = arguments[:3]
        return _reduced(writer, node, op_type, writer.operand(x, node.meta["dtype"]), _axes(axes), bool(keeps))

    return emit


def _mean(writer: Writer, node: Node, arguments: list[Any]) -> ir.Value:
    x, axes, keeps, dtype = arguments
    count = rank(x)
    if dtype is not None or axes is None or count < 3 or sorted(axis % count for axis in axes) != list(range(2, count)):
        return _reduced(writer, node, "ReduceMean", writer.operand(x, node.meta["dtype"]), _axes(axes), bool(keeps))
    pooled = writer.emit("GlobalAveragePool", [writer.value(x)], node)
    return pooled if keeps else writer.emit("Reshape", [pooled, writer.integers([0, -1])], node)


def _best(op_type: str) -> Translate:
    """``max.dim``: values and places."""

    def emit(writer: Writer, node: Node, arguments: list[Any]) -> tuple[ir.Value, ...]:
        x, axis, keeps = arguments
        dtype = x.meta["dtype"]
        values = writer.emit(f"Reduce{op_type}", [writer.value(x), writer.integers([axis])], node, dtype=dtype, keepdims=int(keeps))
        places = writer.emit(f"Arg{op_type}", [writer.value(x)], node, dtype=torch.int64, axis=axis, keepdims=int(keeps))
        return values, places

    return emit


def _place(op_type: str) -> Translate:
    def emit(writer: Writer, node: Node, arguments: list[Any]) -> ir.Value:
        x, axis, keeps = arguments
        if axis is None:
            raise Untranslatable("the largest of all values")
        return writer.emit(op_type, [writer.value(x)], node, axis=axis, keepdims=int(keeps))

    return emit


def _spread_around_mean(is_root: bool) -> Translate:
    """Variance and standard deviation: ``op.dim(x, axes, unbiased, keepdim)`` and ``op.correction(x, axes, *, correction, keepdim)``."""

    def emit(writer: Writer, node: Node, arguments: list[Any]) -> ir.Value:
        x, axes, correction, keeps = arguments
        axes, shape = _axes(axes) or list(range(rank(x))), x.meta["shape"]
        correction = 1 if correction is None else int(correction)
        sizes = [shape[axis] for axis in axes]
        if any(size is None for size in sizes):
            raise Untranslatable("variance over a free axis")
        value, count = writer.value(x), int(torch.tensor(sizes).prod())
        apart = writer.emit("Sub", [value, _reduced(writer, node, "ReduceMean", value, axes, True)], node)
        found = _reduced(writer, node, "ReduceMean", writer.emit("Mul", [apart, apart], node), axes, bool(keeps))
        if correction:
            found = writer.emit("Mul", [found, writer.value(count / max(count - correction, 1e-30))], node)
        return writer.emit("Sqrt", [found], node) if is_root else found

    return emit


def _vector_norm(writer: Writer, node: Node, arguments: list[Any]) -> ir.Value:
    x, order, axes, keeps = arguments[:4]
    if order not in (1, 2):
        raise Untranslatable(f"a norm of order {order}")
    return _reduced(writer, node, f"ReduceL{int(order)}", writer.value(x), _axes(axes), bool(keeps))


def _running_sum(writer: Writer, node: Node, arguments: list[Any]) -> ir.Value:
    x, axis = arguments[:2]
    return writer.emit("CumSum", [writer.operand(x, node.meta["dtype"]), writer.number(axis, torch.int64)], node)


TRANSLATIONS: dict[str, Translate] = {
    "layer_norm.default": _layer_norm,
    "rms_norm.default": _rms_norm,
    "group_norm.default": _group_norm,
    "instance_norm.default": _instance_norm,
    "softmax.int": _softmax("Softmax"),
    "log_softmax.int": _softmax("LogSoftmax"),
    "mean.dim": _mean,
    "sum.dim_IntList": _reduce("ReduceSum"),
    "sum.default": lambda writer, node, arguments: _reduce("ReduceSum")(writer, node, [arguments[0], None, False]),
    "amax.default": _reduce("ReduceMax"),
    "amin.default": _reduce("ReduceMin"),
    "max.dim": _best("Max"),
    "min.dim": _best("Min"),
    "argmax.default": _place("ArgMax"),
    "argmin.default": _place("ArgMin"),
    **dict.fromkeys(("var.dim", "var.correction"), _spread_around_mean(is_root=False)),
    **dict.fromkeys(("std.dim", "std.correction"), _spread_around_mean(is_root=True)),
    "linalg_vector_norm.default": _vector_norm,
    "cumsum.default": _running_sum,
}
