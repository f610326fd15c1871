"""What a tensor could hold that was 0 for every calibration input.

    a clip                          its bounds; where one of them is missing, its operand within them
    anything else                   the widest of its operands: what their grids hold, or, where they have none, their own operands
    nothing with a grid before it   the codes themselves, a scale of 1

A sum whose terms cancel, such as x + y - x - y or an average of what a norm has centred, holds what float32 rounds off its terms: it counts
as 0 where it is below 2^-20 of what they hold, since no runtime rounds alike. So does what a norm makes of values that do not vary, and
a gate (a sigmoid, SiLU, GELU, Mish) that is always shut, of which as little is left.

It is a guess: the network computes the calibration inputs with any of them, and what other inputs bring is most likely of the size of what
stands before.
"""

from __future__ import annotations

import math
from collections.abc import Collection

import torch
from torch.fx import Node

from halfstep.graph.chains import clip_bounds
from halfstep.graph.edges import behind_quantizer, quantizer_of
from halfstep.graph.edit import attribute
from halfstep.graph.names import operator_name
from halfstep.graph.operators import Role, argument, is_float_tensor, num_tensors, role_of
from halfstep.grid import Grid
from halfstep.quantizers import UniformQuantizer
from halfstep.ranges import Range

_Bounds = tuple[float, float]
_CENTRED = ("layer_norm", "group_norm", "instance_norm")
_LEAST_EPSILON = 1e-12
_GATED = ("silu", "gelu", "mish")
_ROUNDED_OFF = 2.0**-20  # a unit in the last place of float32, and a few roundings on the way


def possible_range(node: Node, grid: Grid) -> Range:
    """Of one row, for the quantizer on ``grid`` of what ``node`` computes; the quantizers before it have their scales."""
    low, high = _held(node, {}) or _codes(grid, is_positive=_limits(node)[0] >= 0)
    return Range(*(torch.tensor([bound], dtype=torch.float64) for bound in (low, high)))


def is_cancelled(node: Node, magnitude: float, zeros: Collection[Node] = ()) -> bool:
    """Whether ``node``, never larger than ``magnitude``, is what was rounded off: of terms that cancel, or of a gate that is always shut.

    zeros: operators for which that was found; an average of one of them is no more.
    """
    while node.op.startswith("call") and role_of(node) is Role.CLIP:
        node = node.args[0]  # type: ignore[assignment]
    if operator_name(node) == "sigmoid":
        return magnitude <= _ROUNDED_OFF
    is_sum = operator_name(node) in ("add", "sub") and num_tensors(node) > 1
    is_average = node.op.startswith("call") and role_of(node) is Role.AVERAGE
    if is_average and behind_quantizer(node.args[0]) in zeros:  # type: ignore[arg-type]
        return True
    grows = _growth(node)
    held = _of_operands(node, {}) if is_sum or is_average or grows > 1 or operator_name(node) in _GATED else None
    return held is not None and magnitude <= _ROUNDED_OFF * grows * max(map(abs, held))


def widened(node: Node, chosen: Range, grid: Grid) -> Range:
    """The range of a sum that is so much smaller than its terms that float32 cannot tell its codes apart: a step of at least
    n s 2^-24, n and s levels and step of the widest term. Runtimes would round it differently, by more than a code.
    """
    is_sum = node.op.startswith("call") and operator_name(node) in ("add", "sub")
    terms = [quantizer_of(term) for term in node.all_input_nodes] if is_sum else []
    steps = [float(term.scale.max()) * term.grid.num_levels for term in terms if isinstance(term, UniformQuantizer) and term.is_calibrated]
    least = max(steps, default=0.0) * 2.0**-24 * (grid.num_levels - 1)
    extent = float((chosen.maximum - chosen.minimum).max())
    factor = max(1.0, least / extent) if extent > 0 else 1.0
    return Range(chosen.minimum * factor, chosen.maximum * factor)


def _growth(node: Node) -> float:
    """By how much a norm enlarges what is rounded off an operand that does not vary: its largest weight over sqrt(epsilon)."""
    if operator_name(node) not in _CENTRED:
        return 1.0
    weight, graph = argument(node, "weight", None), node.graph.owning_module
    assert graph is not None
    largest = float(attribute(graph, behind_quantizer(weight)).abs().max()) if isinstance(weight, Node) else 1.0
    return max(1.0, largest / math.sqrt(max(float(argument(node, "eps", 1e-5)), _LEAST_EPSILON)))


def _held(node: Node, known: dict[Node, _Bounds | None]) -> _Bounds | None:
    """The least and the largest value; None where no grid stands before ``node`` and it is no clip with two bounds."""
    if node not in known:
        known[node] = _of_grid(node) or _within(_limits(node), _of_operands(node, known))
    return known[node]


def _of_grid(node: Node) -> _Bounds | None:
    """What the codes of a quantizer stand for."""
    quantizer = quantizer_of(node)
    if not isinstance(quantizer, UniformQuantizer) or not quantizer.is_calibrated or quantizer.scale.numel() != 1:
        return None
    scale, zero_point, grid = float(quantizer.scale), float(quantizer.zero_point), quantizer.grid
    return (grid.minimum - zero_point) * scale, (grid.maximum - zero_point) * scale


def _of_operands(node: Node, known: dict[Node, _Bounds | None]) -> _Bounds | None:
    operands = [operand for operand in node.all_input_nodes if node.op.startswith("call") and operand.op != "get_attr"]
    found = [held for operand in operands if is_float_tensor(operand) and (held := _held(operand, known)) is not None]
    return (min(low for low, _ in found), max(high for _, high in found)) if found else None


def _limits(node: Node) -> _Bounds:
    """Of a clip or sigmoid; infinite where it has none, or tensors."""
    if operator_name(node) == "sigmoid":
        return 0.0, 1.0
    is_clip = node.op.startswith("call") and role_of(node) is Role.CLIP and len(node.all_input_nodes) == 1
    return clip_bounds(node) if is_clip else (-math.inf, math.inf)


def _within(limits: _Bounds, held: _Bounds | None) -> _Bounds | None:
    """``held`` within ``limits``, or both limits where they are finite; a positive one of the same size where nothing would be left."""
    if all(map(math.isfinite, limits)):
        return limits
    if held is None:
        return None
    low, high = (min(max(bound, limits[0]), limits[1]) for bound in held)
    size = max(map(abs, held))
    return (low, high) if low < high else (max(limits[0], -size), min(limits[1], size))


def _codes(grid: Grid, is_positive: bool) -> _Bounds:
    """What the codes stand for with a scale of 1: half of them below 0 where the tensor may be negative and the grid can follow it."""
    below = -grid.minimum if grid.symmetric else 0 if is_positive else grid.num_levels // 2
    return float(-below), float(grid.num_levels - 1 - below)
