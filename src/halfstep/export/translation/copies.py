"""Operators that repeat values or fill tensors with one, and those that pick values by index."""

from __future__ import annotations

from typing import Any

import onnx_ir as ir
import torch
from torch.fx import Node

from halfstep.export.translation.writer import Translate, Untranslatable, Writer, rank


def _expand(writer: Writer, node: Node, arguments: list[Any]) -> ir.Value:
    x, target = arguments[:2]
    given = x.meta["shape"]
    goal = target.meta["shape"] if isinstance(target, Node) else node.meta["shape"]
    offset = len(goal) - len(given)
    sizes: list[Any] = []
    for axis, size in enumerate(goal):
        if size is not None:
            sizes.append(size)
        elif axis >= offset and given[axis - offset] is None:
            sizes.append(1)
        elif isinstance(target, Node):
            sizes.append(writer.size_of(target, axis))
        else:
            sizes.append(writer.size(target[axis]))
    if sizes == list(given) or (offset == 0 and all(a is None or a == b for a, b in zip(given, sizes, strict=True))):
        return writer.value(x)
    return writer.emit("Expand", [writer.value(x), writer.vector(sizes, node)], node)


def _filled(value: float | None) -> Translate:
    """``full``, ``zeros``, ``ones`` (value None: the second argument)."""

    def emit(writer: Writer, node: Node, arguments: list[Any]) -> ir.Value:
        dtype = node.meta["dtype"]
        number = writer.number(arguments[1] if value is None else value, dtype)
        return writer.emit("Expand", [number, writer.vector(arguments[0], node)], node)

    return emit


def _range(writer: Writer, node: Node, arguments: list[Any]) -> ir.Value:
    """``arange(end)`` where the end is computed."""
    if node.meta["dtype"] is not torch.int64:
        raise Untranslatable("a range of other than int64")
    end = writer.emit("Reshape", [writer.size(arguments[0]), writer.integers([])], node)
    return writer.emit("Range", [writer.number(0, torch.int64), end, writer.number(1, torch.int64)], node)


def _filled_like(value: float | None) -> Translate:
    def emit(writer: Writer, node: Node, arguments: list[Any]) -> ir.Value:
        x = arguments[0]
        number = writer.number(arguments[1] if value is None else value, node.meta["dtype"])
        return writer.emit("Expand", [number, writer.emit("Shape", [writer.value(x)], node, dtype=torch.int64)], node)

    return emit


def _repeat(writer: Writer, node: Node, arguments: list[Any]) -> ir.Value:
    x, repeats = arguments
    missing = len(repeats) - rank(x)
    value = writer.value(x)
    if missing:
        value = writer.emit("Unsqueeze", [value, writer.integers(list(range(missing)))], node)
    return writer.emit("Tile", [value, writer.vector(repeats, node)], node)


def _repeat_each(writer: Writer, node: Node, arguments: list[Any]) -> ir.Value:
    """``repeat_interleave`` by one number along one axis: every value next to its copies."""
    x, repeats, axis = arguments[:3]
    if axis is None or not isinstance(repeats, int):
        raise Untranslatable("repeat_interleave of a flat tensor")
    axis %= rank(x)
    copied = writer.emit("Unsqueeze", [writer.value(x), writer.integers([axis + 1])], node)
    sizes = [1] * (rank(x) + 1)
    sizes[axis + 1] = repeats
    return writer.reshape(writer.emit("Expand", [copied, writer.integers(sizes)], node), node, node.meta["shape"])


def _index_select(writer: Writer, node: Node, arguments: list[Any]) -> ir.Value:
    x, axis, indices = arguments
    return writer.emit("Gather", [writer.value(x), writer.value(indices)], node, axis=axis)


def _index(writer: Writer, node: Node, arguments: list[Any]) -> ir.Value:
    """``x[:, i]``, one tensor of indices, or ``x[i, j]``, one for each of the first axes."""
    x, indices = arguments
    given = [(axis, index) for axis, index in enumerate(indices) if index is not None]
    if any(index.meta["dtype"] not in (torch.int64, torch.int32) for _, index in given):
        raise Untranslatable("a mask as index")
    if len(given) == 1:
        return writer.emit("Gather", [writer.value(x), writer.value(given[0][1])], node, axis=given[0][0])
    if len(given) != len(indices):
        raise Untranslatable("indices on several axes that are not the first")
    return _index_together(writer, node, x, indices)


def _index_together(writer: Writer, node: Node, x: Node, indices: list[Node]) -> ir.Value:
    integers = {"dtype": torch.int64}
    places = [writer.operand(index, torch.int64) for index in indices]
    total = places[0]
    for place in places[1:]:
        total = writer.emit("Add", [total, place], node, **integers)
    shape = writer.emit("Shape", [total], node, **integers)  # the one all of them are brought to
    spread = [writer.emit("Expand", [place, shape], node, **integers) for place in places]
    apart = [writer.emit("Unsqueeze", [place, writer.integers([-1])], node, **integers) for place in spread]
    return writer.emit("GatherND", [writer.value(x), writer.emit("Concat", apart, node, **integers, axis=-1)], node)


def _embedding(writer: Writer, node: Node, arguments: list[Any]) -> ir.Value:
    return writer.emit("Gather", [writer.value(x) for x in arguments[:2]], node, axis=0)


def _gather(writer: Writer, node: Node, arguments: list[Any]) -> ir.Value:
    x, axis, index = arguments[:3]
    return writer.emit("GatherElements", [writer.value(x), writer.value(index)], node, axis=axis)


def _triangle(is_upper: bool) -> Translate:
    def emit(writer: Writer, node: Node, arguments: list[Any]) -> ir.Value:
        return writer.emit("Trilu", [writer.value(arguments[0]), writer.number(arguments[1], torch.int64)], node, upper=int(is_upper))

    return emit


TRANSLATIONS: dict[str, Translate] = {
    **dict.fromkeys(("expand.default", "expand_as.default", "broadcast_to.default"), _expand),
    "arange.default": _range,
    "full.default": _filled(None),
    "zeros.default": _filled(0),
    "ones.default": _filled(1),
    "full_like.default": _filled_like(None),
    "zeros_like.default": _filled_like(0),
    "ones_like.default": _filled_like(1),
    "repeat.default": _repeat,
    "repeat_interleave.self_int": _repeat_each,
    "index_select.default": _index_select,
    "index.Tensor": _index,
    "embedding.default": _embedding,
    "gather.default": _gather,
    "tril.default": _triangle(is_upper=False),
    "triu.default": _triangle(is_upper=True),
}
