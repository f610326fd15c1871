"""Operators that move values: shapes, axes, parts, padding."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import onnx_ir as ir
import torch
from torch.fx import Node

from halfstep.export.translation.writer import Result, Translate, Untranslatable, Writer, rank


def _to_shape(writer: Writer, node: Node, arguments: list[Any]) -> ir.Value:
    """Whatever keeps the order of the values."""
    x = arguments[0]
    sizes = arguments[1] if len(arguments) > 1 and isinstance(arguments[1], (list, tuple)) else ()
    if x.meta["shape"] == node.meta["shape"] and list(node.meta["shape"]).count(None) <= 1 and not sizes:
        return writer.value(x)
    return writer.reshape(writer.value(x), node, node.meta["shape"], sizes)


def _turned(order: Any) -> Translate:
    """Transpose by what ``order(rank, arguments)`` says."""

    def emit(writer: Writer, node: Node, arguments: list[Any]) -> ir.Value:
        return writer.emit("Transpose", [writer.value(arguments[0])], node, perm=order(rank(node), arguments))

    return emit


def _swapped(num_axes: int, first: int, second: int) -> list[int]:
    order = list(range(num_axes))
    order[first], order[second] = order[second], order[first]
    return order


def _moved(num_axes: int, source: Sequence[int], destination: Sequence[int]) -> list[int]:
    return list(torch.movedim(torch.empty(*range(num_axes), device="meta"), list(source), list(destination)).shape)


def _concat(writer: Writer, node: Node, arguments: list[Any]) -> ir.Value:
    return writer.emit("Concat", [writer.operand(x, node.meta["dtype"]) for x in arguments[0]], node, axis=arguments[1])


def _slice(writer: Writer, node: Node, arguments: list[Any]) -> ir.Value:
    x, axis, start, end, step = arguments
    bounds = [0 if start is None else start, 2**63 - 1 if end is None else end]
    if not isinstance(axis, int) or not isinstance(step, int):
        raise Untranslatable("computed slice")
    if bounds[0] == 0 and bounds[1] == 2**63 - 1 and step == 1:
        return writer.value(x)
    return _cut(writer, node, writer.value(x), axis, bounds, step)


def _cut(writer: Writer, node: Node, x: ir.Value, axis: int, bounds: Sequence[Any], step: int = 1) -> ir.Value:
    inputs = [x, writer.size(bounds[0]), writer.size(bounds[1]), writer.integers([axis]), writer.integers([step])]
    return writer.emit("Slice", inputs, node)


def _select(writer: Writer, node: Node, arguments: list[Any]) -> ir.Value:
    x, axis, index = arguments
    if not isinstance(index, int):
        raise Untranslatable("computed index")
    return writer.emit("Gather", [writer.value(x), writer.number(index, torch.int64)], node, axis=axis)


def _parts(writer: Writer, x: Node, node: Node, axis: int, sizes: Sequence[int]) -> tuple[ir.Value, ...]:
    if len(sizes) == 1:
        return (writer.value(x),)
    inputs = [writer.value(x), writer.integers(sizes)]
    return writer.emit_several("Split", inputs, node, len(sizes), dtype=x.meta["dtype"], axis=axis)


def _split(writer: Writer, node: Node, arguments: list[Any]) -> Result:
    """``split.Tensor``, ``chunk`` (a number of parts) and ``split_with_sizes``."""
    x, given, axis = arguments
    total = x.meta["shape"][axis]
    if isinstance(given, (list, tuple)):
        sizes = list(given)
    elif total is None or not isinstance(given, int):
        raise Untranslatable("split of a free axis")
    else:
        size = -(-total // given) if "chunk" in str(node.target) else given
        sizes = [min(size, total - start) for start in range(0, total, size)]
    if not all(isinstance(size, int) for size in sizes):
        raise Untranslatable("computed split")
    return _parts(writer, x, node, axis, sizes)


def _unbind(writer: Writer, node: Node, arguments: list[Any]) -> Result:
    x, axis = arguments
    size = x.meta["shape"][axis]
    if size is None:
        raise Untranslatable("unbind of a free axis")
    gathered = [writer.number(index, torch.int64) for index in range(size)]
    return tuple(writer.emit("Gather", [writer.value(x), index], node, dtype=x.meta["dtype"], axis=axis) for index in gathered)


def _roll(writer: Writer, node: Node, arguments: list[Any]) -> ir.Value:
    x, shifts, axes = arguments
    value = writer.value(x)
    if not axes:
        raise Untranslatable("roll of a flat tensor")
    for shift, axis in zip(shifts, axes, strict=True):
        size = x.meta["shape"][axis]
        if size is None:
            raise Untranslatable("roll of a free axis")
        cut = -shift % size
        if cut:
            ends = [_cut(writer, node, value, axis, bounds) for bounds in ((cut, size), (0, cut))]
            value = writer.emit("Concat", ends, node, axis=axis)
    return value


def _flip(writer: Writer, node: Node, arguments: list[Any]) -> ir.Value:
    x, axes = arguments
    count = len(axes)
    bounds = [writer.integers([number] * count) for number in (-1, -(2**63) + 1)]
    return writer.emit("Slice", [writer.value(x), *bounds, writer.integers(list(axes)), writer.integers([-1] * count)], node)


def _pad(writer: Writer, node: Node, arguments: list[Any]) -> ir.Value:
    x, padding, mode, value = arguments if len(arguments) == 4 else (*arguments[:2], "constant", arguments[2])
    if not all(isinstance(amount, int) for amount in padding):
        raise Untranslatable("computed padding")
    count = rank(node)
    pairs = [(0, 0)] * (count - len(padding) // 2) + list(zip(padding[-2::-2], padding[-1::-2], strict=True))
    amounts = writer.integers([begin for begin, _ in pairs] + [end for _, end in pairs])
    if mode == "constant":
        return writer.emit("Pad", [writer.value(x), amounts, writer.value(value or 0, node.meta["dtype"])], node)
    return writer.emit("Pad", [writer.value(x), amounts], node, mode={"reflect": "reflect", "replicate": "edge", "circular": "wrap"}[mode])


def _windows(writer: Writer, node: Node, arguments: list[Any]) -> ir.Value:
    """``im2col``: one slice of the padded image for every place in the kernel."""
    x, kernel, dilation, padding, stride = arguments
    sizes = x.meta["shape"][2:]
    value = writer.value(x)
    if any(padding):
        amounts = writer.integers([0, 0, *padding, 0, 0, *padding])
        value = writer.emit("Pad", [value, amounts, writer.number(0, node.meta["dtype"])], node)
    axes = zip(sizes, kernel, dilation, padding, stride, strict=True)
    ends = [size + 2 * pad - step * (width - 1) for size, width, step, pad, _ in axes]
    steps = [writer.integers([2, 3]), writer.integers(list(stride))]
    parts = []
    for row in range(kernel[0]):
        for column in range(kernel[1]):
            first = [row * dilation[0], column * dilation[1]]
            bounds = [writer.integers(first), writer.integers([a + b for a, b in zip(first, ends, strict=True)])]
            part = writer.emit("Slice", [value, *bounds, *steps], node)
            parts.append(writer.emit("Unsqueeze", [part, writer.integers([2])], node))
    return writer.reshape(writer.emit("Concat", parts, node, axis=2), node, node.meta["shape"])


def _sum_of_windows(writer: Writer, node: Node, arguments: list[Any]) -> ir.Value:
    """``col2im``."""
    x, size, kernel, dilation, padding, stride = arguments
    inputs = [writer.value(x), writer.integers(list(size)), writer.integers(list(kernel))]
    pads = [*padding, *padding]
    return writer.emit("Col2Im", inputs, node, dilations=list(dilation), pads=pads, strides=list(stride))


def _channel_shuffle(writer: Writer, node: Node, arguments: list[Any]) -> ir.Value:
    x, groups = arguments
    shape = node.meta["shape"]
    apart = writer.reshape(writer.value(x), node, [shape[0], groups, shape[1] // groups, *shape[2:]])
    order = [0, 2, 1, *range(3, len(shape) + 1)]
    return writer.reshape(writer.emit("Transpose", [apart], node, perm=order), node, shape)


def _pixel_unshuffle(writer: Writer, node: Node, arguments: list[Any]) -> ir.Value:
    x, factor = arguments
    batch, channels, height, width = x.meta["shape"]
    apart = writer.reshape(writer.value(x), node, [batch, channels, height // factor, factor, width // factor, factor])
    return writer.reshape(writer.emit("Transpose", [apart], node, perm=[0, 1, 3, 5, 2, 4]), node, node.meta["shape"])


_ORDERS: dict[str, Any] = {
    "permute.default": lambda count, given: [axis % count for axis in given[1]],
    "transpose.int": lambda count, given: _swapped(count, given[1], given[2]),
    "swapaxes.default": lambda count, given: _swapped(count, given[1], given[2]),
    "t.default": lambda count, given: list(reversed(range(count))),
    "mT.default": lambda count, given: _swapped(count, -1, -2),
    "movedim.intlist": lambda count, given: _moved(count, given[1], given[2]),
    "movedim.int": lambda count, given: _moved(count, [given[1]], [given[2]]),
    "numpy_T.default": lambda count, given: list(reversed(range(count))),
}
_SAME_ORDER = (
    "view.default reshape.default flatten.using_ints unflatten.int squeeze.default squeeze.dim squeeze.dims unsqueeze.default "
    "reshape_as.default view_as.default _unsafe_view.default"
)
TRANSLATIONS: dict[str, Translate] = {
    **dict.fromkeys(_SAME_ORDER.split(), _to_shape),
    **{name: _turned(order) for name, order in _ORDERS.items()},
    "cat.default": _concat,
    "slice.Tensor": _slice,
    "narrow.default": lambda w, n, a: _cut(w, n, w.value(a[0]), a[1], (a[2], a[2] + a[3])),
    "select.int": _select,
    **dict.fromkeys(("split.Tensor", "split_with_sizes.default", "chunk.default", "split.sizes"), _split),
    "unbind.int": _unbind,
    "roll.default": _roll,
    "flip.default": _flip,
    **dict.fromkeys(("pad.default", "constant_pad_nd.default"), _pad),
    "im2col.default": _windows,
    "col2im.default": _sum_of_windows,
    "channel_shuffle.default": _channel_shuffle,
    "pixel_unshuffle.default": _pixel_unshuffle,
}
