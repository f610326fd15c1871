"""Functions in float between two grids, tabulated: whatever chain of operators stands between one grid and the next, entry by entry.

A function may differ from channel to channel, along the first axis of a sample (a batch norm) or the last (a division by a vector in front
of a linear layer). A `Lookup` has its tables along the first axis; the codes are turned for it where it is the last.
"""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from torch import Tensor
from torch.fx import Node

from halfstep.graph.names import operator_name
from halfstep.graph.operators import module_of
from halfstep.grid import Grid, quantize_affine
from halfstep.integer.lower.lowering import Lowering
from halfstep.integer.lower.movement import moved
from halfstep.integer.lower.refusal import NoIntegerFormError
from halfstep.integer.lower.target import Target
from halfstep.integer.operators import Lookup
from halfstep.integer.value import Value

_NAMES = (
    "sigmoid tanh silu gelu elu selu celu leaky_relu prelu hardswish hardsigmoid hardshrink softplus softsign mish logsigmoid "
    "exp log log1p sqrt rsqrt pow square div sub rsub neg abs sin cos erf reciprocal sign floor ceil round add mul minimum maximum "
    "relu relu6 hardtanh clamp clamp_min clip threshold BatchNorm1d BatchNorm2d BatchNorm3d "
    "Dropout Dropout1d Dropout2d Dropout3d dropout contiguous clone alias"
)
_ENTRYWISE = frozenset(_NAMES.split())
_MOST_BITS = 16
_OUTPUT = Grid(bits=16, signed=True)


def lower_table(lowering: Lowering, node: Node, target: Target) -> str:
    """A `Lookup` for the chain of operators that ends in ``node``."""
    source, chain = _only_source(lowering, node)
    x = lowering.input(source)
    if x.grid.bits > _MOST_BITS or x.shape != target.shape:
        raise NoIntegerFormError("it is a function of more than one code, or of one with too many bits for a table")
    codes = torch.arange(x.grid.minimum, x.grid.maximum + 1)
    reals = (codes - x.zero_point) * torch.tensor(x.scale, dtype=torch.float32)
    real, axis = _evaluated(lowering, node, source, x, reals, {count for part in chain if (count := _num_channels(part)) > 1})
    if not bool(torch.isfinite(real).all()):
        raise NoIntegerFormError("it is NaN or infinite for a code its input can have")
    value = _value(target, real)
    scale, zero_point = torch.tensor(value.scale, dtype=torch.float32), torch.tensor(float(value.zero_point))
    table = quantize_affine(real.clamp(*target.bounds), scale, zero_point, value.grid).codes.long()
    if axis == 0:
        return lowering.emit(Lookup(target.name, (x.name,), value.name, table), value)
    return _lookup_along_the_last(lowering, x, value, table)


def _lookup_along_the_last(lowering: Lowering, x: Value, value: Value, table: Tensor) -> str:
    """The last axis in front, a row of the table for each of its entries, and back again."""
    shape, places = (x.shape[-1], *x.shape[:-1]), torch.arange(x.size)
    turned = replace(x, name=lowering.value_name(f"{value.name}:turned"), shape=shape)
    moved(lowering, x, turned, places.view(x.shape).movedim(-1, 0).flatten())
    found = replace(value, name=lowering.value_name(f"{value.name}:table"), shape=shape)
    lowering.emit(Lookup(found.name, (turned.name,), found.name, table), found)
    return moved(lowering, found, value, places.view(shape).movedim(0, -1).flatten())


def _value(target: Target, real: Tensor) -> Value:
    """On the target's grid, or, for an output of the network, on one of 16 bits that holds what the table holds."""
    if not target.is_wide:
        return target.value(target.scale)
    scale = max(float(real.abs().max()) / _OUTPUT.maximum, 1e-30)
    return Value(target.name, target.shape, _OUTPUT, scale)


def _num_channels(node: Node) -> int:
    """How many entries the first axis of a sample must have for the operator; 1 where it asks for none."""
    if node.op == "call_module":
        return int(getattr(module_of(node), "num_features", 1))
    return math.prod(node.args[1].meta["shape"]) if operator_name(node) == "prelu" else 1  # type: ignore[union-attr]


def _only_source(lowering: Lowering, node: Node) -> tuple[Node, set[Node]]:
    """The one value that the chain reads, and the chain with it and its constants; `NoIntegerFormError` where it reads several, or an
    operator in it looks at neighbours.
    """
    sources: set[Node] = set()
    open_nodes, seen = [node], {node}
    while open_nodes:
        current = open_nodes.pop()
        if current in lowering.names:
            sources.add(current)
            continue
        if current in lowering.seen.constants:
            continue
        if current.op == "placeholder":
            raise NoIntegerFormError(f"its input '{current.meta['name']}' is in float")
        if current in lowering.failed:
            raise NoIntegerFormError("")
        if current.op.startswith("call") and operator_name(current) not in _ENTRYWISE:
            raise NoIntegerFormError(f"'{operator_name(current)}' has no integer form between the grids it stands between")
        fresh = [x for x in current.all_input_nodes if x not in seen and x not in lowering.seen.numbers]
        open_nodes += fresh
        seen.update(fresh)
    if len(sources) != 1:
        raise NoIntegerFormError(f"'{operator_name(node)}' of {len(sources)} tensors has no integer form")
    return next(iter(sources)), seen - sources


def _evaluated(lowering: Lowering, node: Node, source: Node, x: Value, reals: Tensor, counts: set[int]) -> tuple[Tensor, int]:
    """The chain on every real number a code can stand for, and the axis along which it differs.

    [1, codes], or [channels, codes] where stored tensors differ along the first (0) or the last (-1) axis of a sample. counts: of channels
    that batch norms and PReLUs find on axis 1 of the network's tensor. Where the batch shares its axis, all of that axis is evaluated.
    """
    num_axes, layout = len(x.shape), lowering.layout(source)
    for axis in (0, -1) if num_axes > 1 else (0,):
        kept = {axis % num_axes} if num_axes else set()
        kept |= set() if layout.is_alone else {layout.axis}
        sizes = tuple(size if index in kept else 1 for index, size in enumerate(x.shape))
        samples = reals.view([-1] + [1] * num_axes).expand(-1, *sizes)
        inputs = layout.from_samples(samples, layout.batch(sizes, len(reals)))
        if counts - set(inputs.shape[1:2]):
            continue
        found = lowering.seen.evaluate(node, {source: inputs})
        if found.shape != inputs.shape:
            continue
        by_sample = layout.to_samples(found).reshape(len(reals), *(sizes or (1,)))
        rows = by_sample.movedim(axis % by_sample[0].ndim + 1, 0).reshape(by_sample.shape[1:][axis], len(reals), -1).transpose(1, 2)
        if torch.equal(rows, rows[:, :1].expand_as(rows)):
            rows = rows[:, 0].contiguous()
            is_one = torch.equal(rows, rows[:1].expand_as(rows))
            return (rows[:1], 0) if is_one else (rows, axis)
    raise NoIntegerFormError("it differs from place to place")
