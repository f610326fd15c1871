"""A rounding that was found on data, against nearest codes with a corrected bias: what is no better for the output is not taken.

    E || W x - W_q x̂ - c ||^2  =  about means: (v - W) H (v - W)ᵀ - 2 W D (v - W)ᵀ  +  (W E[x] - v E[x̂] - c)^2  +  constant

v: a row of W_q. H, D: E[x̂ x̂ᵀ] and E[(x - x̂) x̂ᵀ] about the means. c: what the bias is moved by; where it is free or corrected it is the
W E[x] - v E[x̂] of the samples that codes were found on. Rows whose codes are worse on the samples that they were found on take nearest
ones. What is left of the rounding is taken only if the same passes a trial: found on one half of the samples, with its bias, it must be no
worse than nearest codes on the other half. Of a single sample it is never taken. The output of the float network is what counts, whatever
a method aims at.

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
    """Whether what was found on all patches may be judged on them as well: by knowing them d codes gain about d / n of the error."""
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
    """Where the codes that ``solve`` found are kept, and where the bias is moved by `bias_shift`: [G, R]."""
    is_kept, is_moved = _no_worse(problem, quantized, frees_bias)
    if not _passes_trial(problem, solve, frees_bias):
        return torch.zeros_like(is_kept), torch.ones_like(is_moved)
    return is_kept, is_moved


def _passes_trial(problem: RoundingProblem, solve: Callable[[RoundingProblem], Quantized], frees_bias: bool) -> bool:
    """Whether what is taken of the codes of one half is no worse on the other."""
    assert problem.moments is not None
    if problem.moments.half is None:  # one sample: nothing to judge by
        return False
    trial = replace(problem, moments=problem.moments.half, progress=lambda share: None)  # which the codes of all have told
    held_out = second_half(problem.moments)
    found = solve(trial)
    is_kept, is_moved = _no_worse(trial, found, frees_bias)
    error = _error(trial, mixed(trial, found, is_kept), held_out, is_moved).sum()
    limit = _error(trial, nearest(trial), held_out, torch.ones_like(is_moved)).sum()
    return bool(error <= limit + _NOISE * limit.abs())


def _no_worse(problem: RoundingProblem, quantized: Quantized, frees_bias: bool) -> tuple[Tensor, Tensor]:
    """Where codes are as good as nearest ones with a corrected bias on what they were found on, and which of them need one too: [G, R].

    Row by row where samples are many and each row has its own scale, else for all rows alike: one row of few samples is a matter of luck.
    """
    moments = problem.moments
    assert moments is not None
    every = torch.ones(problem.rows(problem.weight).shape[:2], dtype=torch.bool, device=moments.gram.device)
    limit = _error(problem, nearest(problem), moments, every)
    as_it_is, corrected = (_error(problem, quantized, moments, is_moved) for is_moved in (every & frees_bias, every))
    if not (is_many(moments.num_patches, moments.gram.shape[1]) and _has_scales_of_rows(problem)):
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


def _error(problem: RoundingProblem, quantized: Quantized, moments: Moments, is_moved: Tensor) -> Tensor:
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
