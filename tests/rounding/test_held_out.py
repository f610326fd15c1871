"""The damping found on held-out samples: more where samples are few, and measured on those that were held out."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import Tensor

from halfstep.grid import Grid
from halfstep.rounding import LinearOperator, Moments, RoundingProblem
from halfstep.rounding.held_out import DAMPINGS, _rows, held_out_damping, output_error, second_half

D, R = 24, 16


def moments_of(x: Tensor, quantized: Tensor) -> Moments:
    count = len(x)
    gram, cross = quantized.mT @ quantized / count, x.mT @ quantized / count
    return Moments(gram[None], cross[None], quantized.mean(0)[None], x.mean(0)[None], count)


def problem_of(num_samples: int, seed: int = 0) -> tuple[RoundingProblem, Tensor, Tensor]:
    """A layer that sees correlated inputs, a little changed on their way; with those of the first and of the second half."""
    generator = torch.Generator().manual_seed(seed)
    mixing = torch.randn(D, D, generator=generator, dtype=torch.float64) * torch.logspace(0, -1.5, D, dtype=torch.float64)[:, None]
    x = (torch.randn(num_samples, D, generator=generator, dtype=torch.float64) @ mixing + 1).clamp(min=0)
    quantized = (x * 8).round() / 8
    weight = torch.randn(R, D, generator=generator)
    moments = dataclasses.replace(moments_of(x, quantized), half=moments_of(x[::2], quantized[::2]))
    scale = weight.abs().amax(1) / 3
    return RoundingProblem(weight, scale, torch.zeros(R), Grid(3, True, True, 0), LinearOperator(), moments=moments), x, quantized


@pytest.mark.parametrize("centred", [True, False])
def test_theoutput_error_is_that_of_the_samples_held_out(centred: bool) -> None:
    problem, x, quantized = problem_of(60)
    assert problem.moments is not None
    second = second_half(problem.moments)
    rows = _rows(dataclasses.replace(problem, moments=problem.moments.half), True, centred, 0.1)
    weight = problem.weight.double()
    missed = x[1::2] @ weight.mT - quantized[1::2] @ rows[0].mT
    start = (x - quantized)[1::2] @ weight.mT  # what nobody can round away: the error of the unrounded weight
    if centred:
        missed, start = missed - missed.mean(0), start - start.mean(0)
    want = missed.square().mean(0) - start.square().mean(0)
    torch.testing.assert_close(output_error(problem, rows, second, centred), want, atol=1e-9, rtol=1e-6)


def test_few_samples_ask_for_more_than_many() -> None:
    few = [held_out_damping(problem_of(16, seed)[0], True, True) for seed in range(6)]
    many = [held_out_damping(problem_of(20_000, seed)[0], True, True) for seed in range(6)]
    assert sum(few) > 3 * sum(many)
    assert set(few + many) <= set(DAMPINGS)


def test_without_halves_there_is_nothing_to_hold_out() -> None:
    problem, *_ = problem_of(16)
    assert problem.moments is not None
    assert (
        held_out_damping(dataclasses.replace(problem, moments=dataclasses.replace(problem.moments, half=None)), True, True) == DAMPINGS[0]
    )
