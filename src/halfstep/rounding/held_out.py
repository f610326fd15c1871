"""How much damping few samples ask for: as much as lets codes that were found on one half of the samples do best on the other half.

    l = argmin over DAMPINGS of  (v_l - W) H_2 (v_l - W)ᵀ - 2 W D_2 (v_l - W)ᵀ          v_l: the row found from H_1, D_1 with damping l

H_1, H_2: E[x̂ x̂ᵀ] over the first and the second half, about the means where the bias is free. D: E[(x - x̂) x̂ᵀ] likewise. The sum is the
error on the second half without its constant, over all rows of the layer. v_l: coordinate descent from Babai's codes, which is what the
longer searches start from. Where samples are many, the least damping wins; where they are fewer than the entries of a row (a classifier
behind a pooling), H_1 is singular, and without damping codes wander off along directions in which it happens to see nothing.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from halfstep.rounding.abstract import Moments, RoundingProblem
from halfstep.solvers import ClosestVector, beam, descend

DAMPINGS = (0.01, 0.03, 0.1, 0.3, 1.0)


def held_out_damping(problem: RoundingProblem, asymmetric: bool, centred: bool) -> float:
    """One of `DAMPINGS`; the least where the moments know of no halves."""
    moments = problem.moments
    if moments is None or moments.half is None:
        return DAMPINGS[0]
    first, second = replace(problem, moments=moments.half), second_half(moments)
    errors = [
        problem.gather(output_error(problem, _rows(first, asymmetric, centred, damping), second, centred)).sum() for damping in DAMPINGS
    ]
    return DAMPINGS[int(torch.stack(errors).argmin())]


def closest_vector(problem: RoundingProblem, asymmetric: bool, centred: bool, damping: float) -> ClosestVector:
    """The problem of all rows [N, d]; raises `CalibrationError` if the moments are not finite."""
    quadratic = problem.quadratic(asymmetric, centred, damping)
    rows = (problem.rows(part) for part in (problem.step(), *problem.limits()))
    return ClosestVector.of(quadratic.gram, quadratic.target, *rows)


def _rows(problem: RoundingProblem, asymmetric: bool, centred: bool, damping: float) -> Tensor:
    """Quantized rows [G, R, d], float64."""
    vector = closest_vector(problem, asymmetric, centred, damping)
    step = problem.rows(problem.step())
    return descend(vector, beam(vector, 1)).view(step.shape).double() * step.double()


def second_half(moments: Moments) -> Moments:
    """What is left of the moments without their first half."""
    assert moments.half is not None
    whole, first = moments.num_patches, moments.half.num_patches
    names = ("gram", "cross", "mean", "float_mean")
    left = {name: (getattr(moments, name) * whole - getattr(moments.half, name) * first) / (whole - first) for name in names}
    return Moments(**left, num_patches=whole - first)


def output_error(problem: RoundingProblem, rows: Tensor, moments: Moments, centred: bool) -> Tensor:
    """The error of each row [N] on the inputs that ``moments`` stand for, without its constant."""
    gram, drift = moments.about_means() if centred else (moments.gram, moments.cross - moments.gram)
    weight = problem.rows(problem.weight).double()
    missed = rows - weight
    return ((missed @ gram - 2 * weight @ drift) * missed).sum(-1).flatten()
