"""Additions, products and concatenations of activations: every operand keeps its grid and is brought to that of the result."""

from __future__ import annotations

import torch
from torch.fx import Node

from halfstep.graph.names import operator_name
from halfstep.graph.operators import argument
from halfstep.grid import Grid
from halfstep.integer.lower.lowering import Lowering
from halfstep.integer.lower.refusal import NoIntegerFormError
from halfstep.integer.lower.target import Target
from halfstep.integer.operators import Add, Concat, Matmul, Mul
from halfstep.integer.requantization import MODES, SHIFT_MODES, Rescale, shared_shift
from halfstep.integer.value import Value

_SHORT_BITS = 12  # of a grid for which a multiplier of 15 bits is exact: 2^-15 of 2^12 codes is an eighth of one
_WIDE_BITS = 15  # of the multipliers of a sum that leaves the network: nothing is shifted out of it


def lower_add(lowering: Lowering, node: Node, target: Target) -> str:
    """An `Add`; one that is a difference has a negative multiplier."""
    operands = [lowering.input(x) for x in node.args[:2]]
    _refuse_misaligned(operands)
    factor = float(argument(node, "alpha", 1)) * (-1 if operator_name(node) == "sub" else 1)
    if factor == 0:
        raise NoIntegerFormError("it adds nothing (alpha is 0)")
    signs = (1, 1 if factor > 0 else -1)
    scales = [operands[0].scale, operands[1].scale * abs(factor)]
    value = target.value(max(scales) * 2.0**-_WIDE_BITS)
    if target.is_wide:
        multipliers, shift = tuple(round(scale / value.scale) for scale in scales), 0
    else:
        bits = max(max(-low, high).bit_length() for low, high in (x.centred_bounds for x in operands))
        multipliers, shift = shared_shift([scale / value.scale for scale in scales], lowering.mode, bits)
    chosen = tuple(m * sign for m, sign in zip(multipliers, signs, strict=True))
    lowering.errors[target.name] = max(abs(m * 2.0**-shift * value.scale / scale - 1) for m, scale in zip(multipliers, scales, strict=True))
    inputs = tuple(x.name for x in operands)
    return lowering.emit(Add(target.name, inputs, value.name, chosen, shift, *target.codes(value)), value)


def lower_mul(lowering: Lowering, node: Node, target: Target) -> str:
    """A `Mul`."""
    operands = [lowering.input(x) for x in node.args[:2]]
    _refuse_misaligned(operands)
    value = target.value(operands[0].scale * operands[1].scale)
    rescale = _between(lowering, target, operands[0].scale * operands[1].scale / value.scale)
    inputs = tuple(x.name for x in operands)
    return lowering.emit(Mul(target.name, inputs, value.name, rescale, *target.codes(value)), value)


def lower_matmul(lowering: Lowering, node: Node, target: Target) -> str:
    """A `Matmul`."""
    operands = [lowering.input(x) for x in node.args[:2]]
    if min(len(x.shape) for x in operands) < 2:
        raise NoIntegerFormError("one of its operands is a vector")
    value = target.value(operands[0].scale * operands[1].scale)
    rescale = _between(lowering, target, operands[0].scale * operands[1].scale / value.scale)
    inputs = tuple(x.name for x in operands)
    return lowering.emit(Matmul(target.name, inputs, value.name, rescale, *target.codes(value)), value)


def lower_concat(lowering: Lowering, node: Node, target: Target) -> str:
    """A `Concat`."""
    nodes = node.args[0]
    assert isinstance(nodes, (list, tuple))
    operands = [lowering.input(x) for x in nodes]
    axis = lowering.axis(node, int(argument(node, "dim", 0)))
    value = target.value(max(x.scale for x in operands) * 2.0**-_WIDE_BITS)
    rescales = tuple(_between(lowering, target, x.scale / value.scale) for x in operands)
    inputs = tuple(x.name for x in operands)
    return lowering.emit(Concat(target.name, inputs, value.name, axis, rescales, *target.codes(value)), value)


def _between(lowering: Lowering, target: Target, scale: float) -> Rescale:
    """A rescale between grids that no weight can be fitted to: where shifts are asked for, a multiplier of 16 or 32 bits."""
    return lowering.rescale(target.name, torch.tensor(scale, dtype=torch.float64), merge_mode(lowering.mode, target.grid))


def merge_mode(mode: str, grid: Grid | None = None) -> str:
    """The mode of rescales that belong to no weight. grid: of what they make, where a multiplier of 15 bits may be too short for it."""
    assert mode in MODES
    if mode not in SHIFT_MODES:
        return mode
    return "fixed_point_16" if grid is None or grid.bits <= _SHORT_BITS else "fixed_point_32"


def _refuse_misaligned(operands: list[Value]) -> None:
    """Broadcasting pairs axes from the last one on: of two operands of different rank the smaller must be a stored one, without a batch."""
    if len({len(x.shape) for x in operands}) > 1 and all(len(x.shape) > 0 for x in operands):
        shortest = min(operands, key=lambda x: len(x.shape))
        if len(shortest.shape) + 1 < max(len(x.shape) for x in operands) and shortest.size > shortest.shape[-1]:
            raise NoIntegerFormError("its operands have different numbers of axes")
