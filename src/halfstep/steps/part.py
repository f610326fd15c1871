"""One layer's problem shared out over processes: its output channels (or whole groups) are independent (Nagel et al. 2020, appendix B)."""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor

from halfstep import parallel
from halfstep.grid import Quantized
from halfstep.rounding import AbstractRounding, LayerSamples, Moments, RoundingProblem


def solve(rounding: AbstractRounding, problem: RoundingProblem, generator: torch.Generator) -> Quantized:
    """``rounding.round``, with the rows shared out where the method allows it; the same codes in every process."""
    count = num_parts(problem)
    if parallel.num_processes() == 1 or not rounding.has_independent_rows or count < parallel.num_processes():
        return rounding.round(problem, generator)
    mine = rounding.round(part_of(problem, parallel.share(count)), generator)
    parts = parallel.collect((mine.codes.cpu(), mine.scale.cpu()))
    codes = torch.cat([codes for codes, _ in parts], dim=_axis(problem)).to(problem.weight.device)
    scale = parts[0][1] if problem.scale.ndim == 0 else torch.cat([scale for _, scale in parts])
    return Quantized(codes, scale.to(problem.weight.device), problem.zero_point, problem.grid)


def num_parts(problem: RoundingProblem) -> int:
    """Into how many independent problems this one falls: groups, or the output channels of a single group."""
    return problem.operator.groups if problem.operator.groups > 1 else problem.weight.shape[_axis(problem)]


def part_of(problem: RoundingProblem, share: range) -> RoundingProblem:
    """The problem of some consecutive groups, or of some output channels of a single group."""
    axis, groups = _axis(problem), problem.operator.groups
    span = problem.weight.shape[axis] // num_parts(problem)  # entries of the weight's axis a part
    entries = slice(share.start * span, share.stop * span)
    num_outputs = problem.operator.rows(problem.weight).shape[1] if groups > 1 else 1
    outputs = slice(share.start * num_outputs, share.stop * num_outputs)
    has_own = problem.scale.ndim > 0 and problem.grid.channel_axis == axis
    moments = problem.moments
    if moments is not None and groups > 1:
        moments = _of_groups(moments, slice(share.start, share.stop))
    return dataclasses.replace(
        problem,
        weight=_cut(problem.weight, axis, entries),
        scale=problem.scale[entries] if has_own else problem.scale,
        zero_point=problem.zero_point[entries] if has_own else problem.zero_point,
        operator=dataclasses.replace(problem.operator, groups=len(share) if groups > 1 else 1),
        bias=None if problem.bias is None else problem.bias[outputs],
        moments=moments,
        samples=None if problem.samples is None else lambda: _samples(problem, share, outputs),
        keep=None if problem.keep is None else _cut(problem.keep, axis, entries),
        row_offset=problem.row_offset + outputs.start,
        gather=parallel.joined,
    )


def _of_groups(moments: Moments, chosen: slice) -> Moments:
    parts = {name: getattr(moments, name)[chosen] for name in ("gram", "cross", "mean", "float_mean")}
    half = None if moments.half is None else _of_groups(moments.half, chosen)
    return dataclasses.replace(moments, **parts, half=half)


def _axis(problem: RoundingProblem) -> int:
    """The axis of the weight along which the parts lie."""
    return 1 if problem.operator.is_transposed and problem.operator.groups == 1 else 0


def _cut(tensor: Tensor, axis: int, entries: slice) -> Tensor:
    return tensor[entries] if axis == 0 else tensor[:, entries]


def _samples(problem: RoundingProblem, share: range, outputs: slice) -> LayerSamples:
    assert problem.samples is not None
    samples = problem.samples()
    found = samples.outputs[:, outputs] if problem.operator.num_axes else samples.outputs[..., outputs]
    if problem.operator.groups == 1:
        return dataclasses.replace(samples, outputs=found)
    span = samples.inputs.shape[1] // problem.operator.groups
    chosen = slice(share.start * span, share.stop * span)
    return LayerSamples(samples.inputs[:, chosen], samples.float_inputs[:, chosen], found, samples.activation)
