"""A rounding that was found on data, against nearest codes with a corrected bias: what is no better for the output is not taken.

    E || W x - W_q x̂ - c ||^2  =  about means: (v - W) H (v - W)ᵀ - 2 W D (v - W)ᵀ  +  (W E[x] - v E[x̂] - c)^2  +  constant

v: a row of W_q. H, D: E[x̂ x̂ᵀ] and E[(x - x̂) x̂ᵀ] about the means. c: what the bias is moved by; where it is free or corrected it is the
W E[x] - v E[x̂] of the samples that codes were found on. Where samples are many (`is_many`) the sum is taken over all of them: what d
codes gain by knowing them is a share of about d / n of the error. Where they are fewer the rounding is tried: its codes of one half of the
samples, and its bias, are compared with nearest codes on the other half; of a single sample it is never taken. The output of the float
network is what counts, whatever a method aims at.

Weights that nearly cancel on inputs with large means (depthwise layers of text recognisers) are where roundings fail this: every code that
moves changes the output by more than all of the signal.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from halfstep.grid import Quantized
from halfstep.rounding.abstract import Moments, RoundingProblem
from halfstep.rounding.held_out import output_error, second_half

MANY = 8  # patches for each entry of a row
_NOISE = 1e-9  # of an error: two orders of the same sum


def is_many(num_patches: int, num_entries: int) -> bool:
    """Whether what was found on all patches may be judged on them as well."""
    return num_patches >= MANY * num_entries


def nearest(problem: RoundingProblem) -> Quantized:
    """Each weight at the code next to it."""
    return problem.codes(torch.round(problem.position()))


def bias_shift(problem: RoundingProblem, quantized: Quantized) -> Tensor:
    """``W E[x] - W_q E[x̂]``, [G, R] float64: what keeps the mean of every output."""
    assert problem.moments is not None
    exact, rounded = problem.rows(problem.weight).double(), problem.rows(quantized.dequantize()).double()
    return (exact @ problem.moments.float_mean[..., None] - rounded @ problem.moments.mean[..., None])[..., 0]


def accepted(
    problem: RoundingProblem, quantized: Quantized, solve: Callable[[RoundingProblem], Quantized], frees_bias: bool
) -> tuple[Tensor, Tensor]:
    """Where the codes that ``solve`` found are kept, and where the bias is moved by `bias_shift`: [G, R].

    Row by row where samples are many and each row has its own scale, else for all rows alike: one row of few samples is a matter of luck.
    Codes that are no worse than nearest ones only with a corrected bias are kept, and get it.
    """
    moments = problem.moments
    assert moments is not None
    judge_rows = _has_scales_of_rows(problem)
    known, judged = problem, moments
    if not is_many(moments.num_patches, moments.gram.shape[1]):
        if moments.half is None:  # one sample: nothing to judge by
            nothing = torch.zeros(
                moments.gram.shape[0], problem.rows(problem.weight).shape[1], dtype=torch.bool, device=moments.gram.device
            )
            return nothing, ~nothing
        known, judged, judge_rows = replace(problem, moments=moments.half), second_half(moments), False
        quantized = solve(known)
    plain = nearest(problem)
    limit = _error(known, plain, judged, is_moved=True)
    as_it_is, corrected = (_error(known, quantized, judged, is_moved) for is_moved in (frees_bias, True))
    if not judge_rows:
        limit, as_it_is, corrected = (error.sum().expand_as(error) for error in (limit, as_it_is, corrected))
    limit = limit + _NOISE * limit.abs()
    return (as_it_is <= limit) | (corrected <= limit), (as_it_is > limit) | frees_bias


def mixed(problem: RoundingProblem, quantized: Quantized, is_kept: Tensor) -> Quantized:
    """``quantized`` in the rows of ``is_kept`` [G, R], nearest codes on the problem's own scale in the others."""
    plain = nearest(problem)
    of_weight = problem.operator.weight(is_kept[..., None].expand(problem.rows(problem.weight).shape), problem.weight.shape)
    codes = torch.where(of_weight, quantized.codes, plain.codes)
    axis = problem.grid.channel_axis
    of_scale = is_kept.all() if axis is None else of_weight.movedim(axis, 0).flatten(1).all(1)
    of_scale = of_scale[:, None] if problem.scale.ndim > 1 else of_scale
    return replace(quantized, codes=codes, scale=torch.where(of_scale, quantized.scale, plain.scale))


def _error(problem: RoundingProblem, quantized: Quantized, moments: Moments, is_moved: bool) -> Tensor:
    """Of each row on the inputs that ``moments`` stand for, without the constant: [G, R]."""
    rows = problem.rows(quantized.dequantize()).double()
    left = bias_shift(replace(problem, moments=moments), quantized) - is_moved * bias_shift(problem, quantized)
    return output_error(problem, rows, moments, centred=True).view(left.shape) + left.square()


def _has_scales_of_rows(problem: RoundingProblem) -> bool:
    """Whether no scale is shared by two rows."""
    if problem.grid.channel_axis is None or problem.scale.ndim == 0:
        return False
    entries = torch.arange(problem.scale.shape[0], device=problem.scale.device)
    channels = problem.grid.per_channel().along(entries, problem.weight.shape)
    found = problem.rows(channels).flatten(0, 1)
    return bool((found == found[:, :1]).all()) and len(found[:, 0].unique()) == len(found)
