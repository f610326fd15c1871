"""Pooling, means and lone clips."""

from __future__ import annotations

import functools
from typing import Any

import torch
from torch.fx import Node

from halfstep.graph.names import operator_name
from halfstep.graph.operators import argument
from halfstep.integer.lower.lowering import Lowering
from halfstep.integer.lower.merge import merge_mode
from halfstep.integer.lower.refusal import NoIntegerFormError
from halfstep.integer.lower.target import Target
from halfstep.integer.operators import AveragePool, MaxPool, Mean, Requantize
from halfstep.integer.requantization import exact_power
from halfstep.integer.value import Value


def lower_requantize(lowering: Lowering, node: Node, target: Target) -> str:
    """A clip by itself, or a tensor that is rounded once more: a `Requantize` within the clip's bounds."""
    x = lowering.input(node)
    value = target.value(x.scale)
    rescale = lowering.rescale(
        target.name, torch.tensor(x.scale / value.scale, dtype=torch.float64), merge_mode(lowering.mode, target.grid)
    )
    return lowering.emit(Requantize(target.name, (x.name,), value.name, rescale, *target.codes(value)), value)


def lower_max_pool(lowering: Lowering, node: Node, target: Target) -> str:
    """A `MaxPool`, on the grid of its input."""
    num_axes = int(operator_name(node)[-2])
    x = lowering.image(node.args[0], num_axes)
    kernel, stride, padding, dilation = _geometry(node, num_axes, ("kernel_size", "stride", "padding", "dilation"))
    reach = tuple(d * (k - 1) + 1 for d, k in zip(dilation, kernel, strict=True))
    frame = _frame(x.shape[1:], target.shape[1:], reach, stride, padding)
    value = Value(target.name, target.shape, x.grid, x.scale, x.zero_point)
    return lowering.emit(MaxPool(target.name, (x.name,), value.name, kernel, stride, frame, dilation), value)


def lower_average_pool(lowering: Lowering, node: Node, target: Target) -> str:
    """An `AveragePool`."""
    num_axes = int(operator_name(node)[-2])
    x = lowering.image(node.args[0], num_axes)
    kernel, stride, padding = _geometry(node, num_axes, ("kernel_size", "stride", "padding"))
    frame = _frame(x.shape[1:], target.shape[1:], kernel, stride, padding)
    includes_padding = bool(argument(node, "count_include_pad", True))
    counts = tuple(
        _counts(size, places, k, s, p, p if includes_padding else 0)
        for size, places, k, s, p in zip(x.shape[1:], target.shape[1:], kernel, stride, padding, strict=True)
    )
    override = argument(node, "divisor_override", None) if num_axes > 1 else None
    if override:
        counts = ((int(override),) * target.shape[1], *((1,) * size for size in target.shape[2:]))
    return _emit_average(lowering, target, x, (kernel, stride, frame, counts))


def lower_adaptive_pool(lowering: Lowering, node: Node, target: Target) -> str:
    """Windows of equal size, or the mean over everything."""
    num_axes = int(operator_name(node)[-2])
    x = lowering.image(node.args[0], num_axes)
    sizes, places = x.shape[1:], target.shape[1:]
    if any(size % place for size, place in zip(sizes, places, strict=True)):
        raise NoIntegerFormError("its windows differ in size")
    if all(place == 1 for place in places):
        return _emit_mean(lowering, target, x, tuple(range(1, num_axes + 1)))
    kernel = tuple(size // place for size, place in zip(sizes, places, strict=True))
    counts = tuple((k,) * place for k, place in zip(kernel, places, strict=True))
    return _emit_average(lowering, target, x, (kernel, kernel, ((0, 0),) * num_axes, counts))


def lower_mean(lowering: Lowering, node: Node, target: Target) -> str:
    """A `Mean`."""
    x = lowering.input(node.args[0])
    axes = argument(node, "dim", None)
    if axes is None:
        raise NoIntegerFormError("it takes the mean over the batch")
    chosen = (axes,) if isinstance(axes, int) else axes
    source = node.args[0]
    assert isinstance(source, Node)
    return _emit_mean(lowering, target, x, tuple(sorted(lowering.axis(source, axis) for axis in chosen)))


def _emit_mean(lowering: Lowering, target: Target, x: Value, axes: tuple[int, ...]) -> str:
    count = functools.reduce(lambda total, axis: total * x.shape[axis], axes, 1)
    value = target.value(x.scale / count)
    if target.is_wide:
        rescale = exact_power(0)
    else:
        scale = torch.tensor(x.scale / count / value.scale, dtype=torch.float64)
        rescale = lowering.rescale(target.name, scale, merge_mode(lowering.mode, target.grid))
    return lowering.emit(Mean(target.name, (x.name,), value.name, rescale, *target.codes(value), axes), value)


def _emit_average(lowering: Lowering, target: Target, x: Value, geometry: tuple[Any, ...]) -> str:
    """geometry: kernel, stride, padding and counts of an `AveragePool`."""
    kernel, stride, frame, counts = geometry
    products = functools.reduce(lambda found, axis: {a * b for a in found for b in axis}, (set(axis) for axis in counts), {1})
    divisors = tuple(sorted(products))
    value = target.value(x.scale / divisors[-1] * 2.0**-8)
    scale = x.scale / value.scale / torch.tensor(divisors, dtype=torch.float64)
    rescale = lowering.rescale(target.name, scale, merge_mode(lowering.mode, target.grid))
    operator = AveragePool(target.name, (x.name,), value.name, rescale, *target.codes(value), kernel, stride, frame, counts, divisors)
    return lowering.emit(operator, value)


def _counts(size: int, places: int, kernel: int, stride: int, padding: int, counted: int) -> tuple[int, ...]:
    """For every place along an axis, how many entries of the window lie within the input and ``counted`` entries of padding around it."""
    starts = [place * stride - padding for place in range(places)]
    return tuple(min(start + kernel, size + counted) - max(start, -counted) for start in starts)


def _geometry(node: Node, num_axes: int, names: tuple[str, ...]) -> tuple[tuple[int, ...], ...]:
    """Options of a pooling operator, one number an axis; a stride that is not given is the kernel's size."""
    found = []
    for name in names:
        given = argument(node, name, {"dilation": 1, "padding": 0}.get(name))
        given = argument(node, "kernel_size", None) if given in ([], None) else given  # a stride that is not given
        values = (given,) if isinstance(given, int) else tuple(given)
        found.append(values * num_axes if len(values) == 1 else values)
    return tuple(found)


def _frame(
    sizes: tuple[int, ...], places: tuple[int, ...], reach: tuple[int, ...], stride: tuple[int, ...], padding: tuple[int, ...]
) -> tuple[tuple[int, int], ...]:
    """(before, after) of each axis: as much after the end as the last window of an output of ``places`` entries needs."""
    ends = [(place - 1) * s + r - size - p for size, place, r, s, p in zip(sizes, places, reach, stride, padding, strict=True)]
    return tuple((p, max(0, end)) for p, end in zip(padding, ends, strict=True))
