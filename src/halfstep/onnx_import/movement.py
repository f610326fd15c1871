"""Operators that move values without changing them: reshaping, slicing, joining, padding."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import onnx
import torch
import torch.nn.functional as F
from torch import Tensor

from halfstep.onnx_import.call import Call, Known, Translation
from halfstep.onnx_import.tensors import TORCH_TYPES

_MODES = {"reflect": "reflect", "edge": "replicate", "wrap": "circular"}
_LAST = 2**30  # bounds of a slice beyond this mean "to the end"
_TO_END = 2**63 - 1


def _reshape(call: Call) -> Tensor:
    x, sizes = call.tensor(0), call.integers(1)
    copied = [x.shape[axis] if _is_zero(size) and axis < x.ndim else size for axis, size in enumerate(sizes)]
    shape = sizes if call.flag("allowzero") else copied
    if len(shape) == 2 and x.ndim > 2 and _is_flat(shape, x):
        return torch.flatten(x, 1)
    return torch.reshape(x, shape)


def _is_zero(size: Any) -> bool:
    return isinstance(size, int) and size == 0


def _is_flat(shape: list[int], x: Tensor) -> bool:
    """Whether [batch, everything else] is asked for, in any of the ways to write it."""
    rest, whole = math.prod(x.shape[1:]), math.prod(x.shape)
    rows, columns = shape
    if isinstance(rows, int) and rows == -1:
        return bool(columns == rest)
    return bool(rows == x.shape[0]) and ((isinstance(columns, int) and columns == -1) or bool(rows * columns == whole))


def _flatten(call: Call) -> Tensor:
    """Into two axes, the first of which holds those before ``axis``."""
    x, axis = call.tensor(0), call.integer("axis", 1)
    if axis == 1 and x.ndim > 1:
        return torch.flatten(x, 1)
    if not -x.ndim <= axis <= x.ndim:
        raise call.refusal(f"there is no axis {axis} in a tensor of {x.ndim}. The file is damaged: export it again.")
    axis = axis if axis >= 0 else axis + x.ndim
    return torch.reshape(x, (math.prod(x.shape[:axis]), math.prod(x.shape[axis:])))


def _squeeze(call: Call) -> Tensor:
    x, axes = call.tensor(0), call.axes(1)
    if axes is None:
        axes = [axis for axis, size in enumerate(x.shape) if isinstance(size, int) and size == 1]
    axes = [call.within(axis, x.ndim) for axis in axes]
    if any(x.shape[axis] != 1 for axis in axes):
        raise call.refusal(f"an axis among {axes} of a tensor of shape {list(x.shape)} has not the size 1. Check the shape of the data.")
    return torch.squeeze(x, axes) if axes else x


def _unsqueeze(call: Call) -> Tensor:
    x, axes = call.tensor(0), call.axes(1) or []
    for axis in sorted(call.within(axis, x.ndim + len(axes)) for axis in axes):
        x = torch.unsqueeze(x, axis)
    return x


def _transpose(call: Call) -> Tensor:
    x = call.tensor(0)
    return torch.permute(x, call.listed("perm") or list(reversed(range(x.ndim))))


def _expand(call: Call) -> Tensor:
    x, sizes = call.tensor(0), call.integers(1)
    missing = max(x.ndim - len(sizes), 0)
    wanted = [*x.shape[:missing], *sizes]
    own = [1] * (len(wanted) - x.ndim) + list(x.shape)
    shape = [have if isinstance(want, int) and want == 1 else want for want, have in zip(wanted, own, strict=True)]
    return x.expand(shape)


def _tile(call: Call) -> Tensor:
    return call.tensor(0).repeat(call.integers(1))


def _concat(call: Call) -> Tensor:
    tensors = call.tensors()
    return torch.cat(tensors, call.axis(tensors[0].ndim, 0))


def _split(call: Call) -> tuple[Tensor, ...]:
    """By given sizes, or into as many equal parts as there are outputs, the last one smaller where they do not fit."""
    x, count = call.tensor(0), len(call.operation.outputs)
    axis = call.axis(x.ndim, 0)
    sizes = call.integers(1) if call.has(1) else call.listed("split")
    if sizes is None:
        step = -(-int(x.shape[axis]) // call.integer("num_outputs", count))
        return tuple(torch.split(x, step, axis))
    return tuple(torch.split(x, sizes, axis))


def _slice(call: Call) -> Tensor:
    x, starts, ends = call.tensor(0), call.integers(1), call.integers(2)
    axes = call.integers(3) if call.has(3) else list(range(len(starts)))
    steps = call.integers(4) if call.has(4) else [1] * len(starts)
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        x = _sliced(call, x, call.within(axis, x.ndim), start, end, step)
    return x


def _sliced(call: Call, x: Tensor, axis: int, start: int, end: int, step: int) -> Tensor:
    if step == 0:
        raise call.refusal("it has a step of 0. The file is damaged: export it again.")
    if step < 0:
        chosen = range(int(x.shape[axis]))[slice(start, end if end >= -int(x.shape[axis]) else None, step)]
        return torch.flip(x, [axis]) if len(chosen) == x.shape[axis] else torch.index_select(x, axis, torch.tensor(list(chosen)))
    start = 0 if isinstance(start, int) and start < -_LAST else start
    end = _TO_END if isinstance(end, int) and end > _LAST else end
    if isinstance(start, int) and start == 0 and end is _TO_END and step == 1:
        return x
    result: Tensor = torch.ops.aten.slice.Tensor(x, axis, start, end, step)
    return result


def _pad(call: Call) -> Tensor:
    x, mode = call.tensor(0), call.text("mode", "constant")
    amounts = call.sizes(1, "pads")
    axes = [call.within(axis, x.ndim) for axis in (call.integers(3) if call.has(3) else range(x.ndim))]
    if len(amounts) != 2 * len(axes):
        raise call.refusal(f"it has {len(amounts)} paddings for {len(axes)} axes. The file is damaged: export it again.")
    pairs = [(0, 0)] * x.ndim
    for axis, begin, end in zip(axes, amounts[: len(axes)], amounts[len(axes) :], strict=True):
        pairs[axis] = (begin, end)
    if mode == "constant":
        value = call.number(2) if call.has(2) else call.real("value", 0.0)
        first = next((axis for axis, pair in enumerate(pairs) if any(pair)), x.ndim)
        flat = [amount for pair in reversed(pairs[first:]) for amount in pair]
        return F.pad(x, flat, value=value) if flat else x
    if mode not in _MODES:
        raise call.refusal(f"the mode '{mode}' is unknown. Known: constant, reflect, edge, wrap.")
    return _pad_by_copies(x, pairs, mode)


def _pad_by_copies(x: Tensor, pairs: list[tuple[int, int]], mode: str) -> Tensor:
    """PyTorch's operator for up to three last axes; for others, each axis by the indices that are copied."""
    padded = [axis for axis, pair in enumerate(pairs) if any(pair)]
    inner = x.ndim - min(padded, default=x.ndim)
    is_small = all(max(pair) < int(x.shape[axis]) for axis, pair in enumerate(pairs) if axis in padded)
    if inner <= x.ndim - 2 and 3 <= x.ndim <= 5 and is_small and all(amount >= 0 for pair in pairs for amount in pair):
        return F.pad(x, [amount for pair in reversed(pairs[2:]) for amount in pair], mode=_MODES[mode])
    for axis in padded:
        size, (begin, end) = int(x.shape[axis]), pairs[axis]
        places = torch.arange(-begin, size + end)
        if mode == "edge":
            places = places.clamp(0, size - 1)
        elif mode == "wrap":
            places = places.remainder(size)
        else:
            places = (places.remainder(max(2 * size - 2, 1)) - (size - 1)).abs().neg() + (size - 1)
        x = torch.index_select(x, axis, places)
    return x


def _depth_to_space(call: Call) -> Tensor:
    x, block = call.tensor(0), call.integer("blocksize", 1)
    if call.text("mode", "DCR") == "CRD":
        return F.pixel_shuffle(x, block)
    n, c, h, w = x.shape
    parts = x.reshape(n, block, block, c // (block * block), h, w).permute(0, 3, 4, 1, 5, 2)
    return parts.reshape(n, c // (block * block), h * block, w * block)


def _space_to_depth(call: Call) -> Tensor:
    x, block = call.tensor(0), call.integer("blocksize", 1)
    n, c, h, w = x.shape
    order = (0, 1, 3, 5, 2, 4) if call.text("mode", "DCR") == "CRD" else (0, 3, 5, 1, 2, 4)
    parts = x.reshape(n, c, h // block, block, w // block, block).permute(order)
    return parts.reshape(n, c * block * block, h // block, w // block)


def _shape(call: Call) -> Known:
    """The sizes, free ones as symbols."""
    sizes = list(call.tensor(0).shape)
    start, end = call.integer("start", 0), call.integer("end", len(sizes))
    chosen = sizes[slice(start, end)]
    return Known(np.array(chosen, np.int64 if all(isinstance(size, int) for size in chosen) else object))


def _size(call: Call) -> Known:
    count = math.prod(call.tensor(0).shape)
    return Known(np.array(count, np.int64 if isinstance(count, int) else object))


def _constant_of_shape(call: Call) -> Tensor:
    value = call.operation.attributes.get("value", np.zeros(1, np.float32))
    return torch.full(call.integers(0), value.reshape(-1)[0].item(), dtype=TORCH_TYPES[onnx.helper.np_dtype_to_tensor_dtype(value.dtype)])


MOVEMENT: dict[str, Translation] = {
    "Reshape": Translation(_reshape, values=(1,)),
    "Flatten": Translation(_flatten),
    "Squeeze": Translation(_squeeze, values=(1,)),
    "Unsqueeze": Translation(_unsqueeze, values=(1,)),
    "Transpose": Translation(_transpose),
    "Expand": Translation(_expand, values=(1,)),
    "Tile": Translation(_tile, values=(1,)),
    "Concat": Translation(_concat),
    "Split": Translation(_split, values=(1,)),
    "Slice": Translation(_slice, values=(1, 2, 3, 4)),
    "Pad": Translation(_pad, values=(1, 2, 3)),
    "DepthToSpace": Translation(_depth_to_space),
    "SpaceToDepth": Translation(_space_to_depth),
    "Shape": Translation(_shape),
    "Size": Translation(_size),
    "ConstantOfShape": Translation(_constant_of_shape, values=(0,)),
}
"""Operator -> its translation."""
