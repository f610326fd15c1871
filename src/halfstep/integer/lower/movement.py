"""Operators that only move codes. Whatever they are called, running one on a tensor of indices says where every code comes from:

* in order: a `Reshape`;
* at ``offset + i0 * stride0 + i1 * stride1 + ...``: a `Copy` (transposed, sliced, flipped, repeated);
* anything else: a `Gather` with the indices as its table.

Padding with zeros is a `Pad`; dropout is nothing in inference.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.fx import Node

from halfstep.graph.names import operator_name
from halfstep.graph.operators import argument
from halfstep.integer.lower.lowering import Lowering, tensor_source
from halfstep.integer.lower.refusal import NoIntegerFormError
from halfstep.integer.lower.target import Target
from halfstep.integer.operators import AbstractOperator, Copy, Gather, Pad, Reshape
from halfstep.integer.value import Value


def lower_movement(lowering: Lowering, node: Node, target: Target, moved_from: tuple[Node, Value] | None = None) -> str:
    """A `Reshape`, `Copy`, `Gather` or `Pad`; for a node that moves nothing, the value of its input.

    moved_from: a tensor further back, and the value it is for this once.
    """
    source = tensor_source(node)
    source, x = moved_from or (source, lowering.input(source))
    value = Value(target.name, target.shape, x.grid, x.scale, x.zero_point)
    frame = _zero_frame(lowering, node)
    if frame is not None:
        return lowering.emit(Pad(target.name, (x.name,), value.name, frame), value)
    return moved(lowering, x, value, _indices(lowering, node, source, x))


def moved(lowering: Lowering, x: Value, value: Value, index: Tensor) -> str:
    """``value``, whose codes in row-major order are those of ``x`` at ``index``; ``x`` itself where nothing moves."""
    start = (value.name, (x.name,), value.name)
    is_in_order = torch.equal(index, torch.arange(x.size))
    if is_in_order and x.shape == value.shape:
        return x.name
    return lowering.emit(Reshape(*start) if is_in_order else _moved(start, index, value), value)


def _moved(start: tuple[str, tuple[str, ...], str], index: Tensor, value: Value) -> AbstractOperator:
    strides = _strides(index.view(value.shape))
    return Gather(*start, index) if strides is None else Copy(*start, *_collapsed(value.shape, strides), int(index[0]))


def _indices(lowering: Lowering, node: Node, source: Node, x: Value) -> Tensor:
    """For every output code of one sample, in row-major order, the place of its input code; int64 [size]."""
    batch_size, shape = lowering.batch_size, lowering.seen.shapes[source]
    places = torch.arange(1, x.size * batch_size + 1, dtype=torch.float64).view(batch_size, -1)
    moved = lowering.seen.evaluate(node, {source: lowering.layout(source).from_samples(places, shape)})
    samples = lowering.layout(node).to_samples(moved).reshape(batch_size, -1).long() - 1
    if bool((samples < 0).any()):
        raise NoIntegerFormError("it adds zeros while it moves codes")
    offsets = (torch.arange(batch_size) * x.size)[:, None]
    if not torch.equal(samples, samples[:1] + offsets):
        raise NoIntegerFormError("it moves codes from sample to sample")
    return samples[0]


def _zero_frame(lowering: Lowering, node: Node) -> tuple[tuple[int, int], ...] | None:
    """(before, after) of every axis of a sample, where a node pads with zeros and cuts nothing off."""
    name = operator_name(node)
    if name not in ("pad", "constant_pad_nd") or (name == "pad" and argument(node, "mode", "constant") != "constant"):
        return None
    sizes: Any = node.args[1]
    numbers = [lowering.seen.numbers.get(size, size) if isinstance(size, Node) else size for size in sizes]
    if any(size < 0 for size in numbers):
        raise NoIntegerFormError("its padding cuts off what it should frame: slice the tensor instead")
    layout, num_axes = lowering.layout(node), len(lowering.seen.shapes[node])
    pairs = [(int(numbers[k]), int(numbers[k + 1])) for k in range(0, len(numbers), 2)]
    frame = [(0, 0)] * (num_axes - len(pairs)) + pairs[::-1]
    if frame[layout.axis] != (0, 0):
        raise NoIntegerFormError("it pads the batch")
    return tuple(pair for axis, pair in enumerate(frame) if axis != layout.axis or not layout.is_alone)


def _strides(index: Tensor) -> tuple[int, ...] | None:
    """The strides with which ``index`` [shape] runs, if it runs evenly along every axis."""
    origin = index[(0,) * index.ndim]
    strides = [int(index.select(axis, 1).flatten()[0] - origin) if size > 1 else 0 for axis, size in enumerate(index.shape)]
    even = origin
    for size, stride in zip(index.shape, strides, strict=True):
        even = even[..., None] + torch.arange(size) * stride
    return tuple(strides) if torch.equal(even, index) else None


def _collapsed(sizes: tuple[int, ...], strides: tuple[int, ...]) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Fewer, longer loops: neighbouring axes that run on without a jump become one."""
    loops: list[tuple[int, int]] = []
    for size, stride in zip(sizes, strides, strict=True):
        if size == 1:
            continue
        if loops and loops[-1][1] == stride * size:
            loops[-1] = (loops[-1][0] * size, stride)
        else:
            loops.append((size, stride))
    loops = loops or [(1, 0)]
    return tuple(size for size, _ in loops), tuple(stride for _, stride in loops)
