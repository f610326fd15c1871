"""Layer, RMS, group and instance norms, and the numbers of a softmax: real parameters as the integers their operators hold."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.fx import Node

from halfstep.graph.names import operator_name
from halfstep.graph.operators import argument
from halfstep.integer.lower.layout import Layout
from halfstep.integer.lower.lowering import Lowering
from halfstep.integer.lower.merge import merge_mode
from halfstep.integer.lower.refusal import NoIntegerFormError
from halfstep.integer.lower.target import Target
from halfstep.integer.operators import LayerNorm
from halfstep.integer.operators.layer_norm import FRACTION
from halfstep.integer.requantization import MAX_SHIFT, Rescale, rescale
from halfstep.integer.value import Value

_STEEPEST = 2.0**22  # units of 2^-16 octaves between two scores: all powers but one are 0 from 2^21 on
_BITS = {"fixed_point_16": 15}  # of the weights of a norm; 30 in the other modes


def softmax_fields(score_scale: float, output_scale: float, guard: int, mode: str) -> tuple[Rescale, int, int, int]:
    """(rescale, guard, numerator, precision) of a `Softmax` of scores of that scale."""
    octaves = min(score_scale * math.log2(math.e) * 2.0 ** (16 - guard), _STEEPEST)
    precision = 61 - math.ceil(1 / output_scale).bit_length()
    return rescale(torch.tensor(octaves, dtype=torch.float64), mode), guard, round(2.0**precision / output_scale), precision


def norm_fields(
    x: Value, output_scale: float, weight: Tensor, bias: Tensor, form: tuple[int, float, bool], mode: str = "fixed_point_32"
) -> dict[str, Any]:
    """num_groups to shift of a `LayerNorm` of ``x``. weight, bias: float64 [count]. form: (num_groups, epsilon, is_centred)."""
    num_groups, epsilon, is_centred = form
    count = x.size // num_groups
    added = epsilon * (count / x.scale) ** 2
    guard = max(0, min(LayerNorm.most_guard(count, x), (59 - math.frexp(added)[1]) // 2))
    bits = _BITS.get(merge_mode(mode), 30)
    largest = max(float(weight.abs().max()), 2.0**-20) / output_scale
    shift = max(0, min(MAX_SHIFT, bits + FRACTION - math.frexp(largest)[1]))
    steps = bias / output_scale * 2.0**shift
    bias_shift = max(0, math.frexp(float(steps.abs().max()))[1] - 30)
    return {
        "num_groups": num_groups,
        "is_centred": is_centred,
        "guard": guard,
        "epsilon": max(1, round(added * 4.0**guard)),
        "weight": torch.round(weight / output_scale * 2.0 ** (shift - FRACTION)).long(),
        "bias": torch.round(steps / 2.0**bias_shift).long(),
        "bias_shift": bias_shift,
        "shift": shift,
    }


def lower_norm(lowering: Lowering, node: Node, target: Target) -> str:
    """A `LayerNorm`."""
    source = node.args[0]
    x = lowering.input(source)
    assert isinstance(source, Node)
    form = (_of_axes if operator_name(node) in ("layer_norm", "rms_norm") else _of_channels)(lowering, node, source, x)
    weight, bias = (_parameter(lowering, node, name) for name in ("weight", "bias"))
    weight = torch.ones(1, dtype=torch.float64) if weight is None else weight
    bias = torch.zeros_like(weight) if bias is None else bias
    epsilon = argument(node, "eps", None)
    epsilon = torch.finfo(torch.float32).eps if epsilon is None else float(epsilon)
    value = target.value(max(float(weight.abs().max()), 2.0**-20) * 2.0**-FRACTION)
    groups = form.num_groups, epsilon, operator_name(node) != "rms_norm"
    fields = norm_fields(x, value.scale, weight, bias, groups, lowering.mode)
    low, high = target.codes(value)
    return lowering.emit(LayerNorm(target.name, (x.name,), value.name, **fields, inner=form.inner, low=low, high=high), value)


@dataclass(frozen=True)
class _Form:
    """num_groups: of a sample. inner: entries side by side that share a weight."""

    num_groups: int
    inner: int


def _of_axes(lowering: Lowering, node: Node, source: Node, x: Value) -> _Form:
    """Over the last axes."""
    sizes: Any = node.args[1]
    if lowering.layout(source).axis >= len(lowering.seen.shapes[source]) - len(sizes):
        raise NoIntegerFormError("it works across the samples of a batch")
    return _Form(x.size // math.prod(int(lowering.seen.numbers.get(size, size)) for size in sizes), 1)


def _of_channels(lowering: Lowering, node: Node, source: Node, x: Value) -> _Form:
    """Over channels and the axes behind them: a group norm, or an instance norm, which is one with a group a channel."""
    if lowering.layout(source) != Layout():
        raise NoIntegerFormError("the batch shares its axis with something else")
    if operator_name(node) == "instance_norm" and not argument(node, "use_input_stats", True):
        raise NoIntegerFormError("it uses stored statistics: replace it by a batch norm")
    num_groups = x.shape[0] if operator_name(node) == "instance_norm" else int(argument(node, "num_groups", 1))
    return _Form(num_groups, x.size // x.shape[0])


def _parameter(lowering: Lowering, node: Node, name: str) -> Tensor | None:
    """A stored weight or bias, float64 [count]."""
    names = [entry.name for entry in node.target._schema.arguments]  # type: ignore[union-attr]
    stored = argument(node, name, None) if name in names else None
    if isinstance(stored, Node) and stored not in lowering.seen.constants:
        raise NoIntegerFormError(f"its {name} is computed by the network")
    return lowering.seen.constants[stored].double().flatten() if isinstance(stored, Node) else None
