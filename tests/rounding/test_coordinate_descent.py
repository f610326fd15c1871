"""By hand, and the number of sweeps."""

from __future__ import annotations

import torch

from halfstep.grid import Grid
from halfstep.rounding import CoordinateDescent, LinearOperator, Moments, RoundingProblem


def problem(weight: torch.Tensor, gram: torch.Tensor, zero_point: float = 0.0, signed: bool = True) -> RoundingProblem:
    gram = gram.double()[None]
    mean = torch.zeros(1, gram.shape[1], dtype=torch.float64)
    grid = Grid(3, signed, zero_point == 0)
    moments = Moments(gram, gram, mean, mean, 10)
    return RoundingProblem(weight, torch.tensor(1.0), torch.tensor(zero_point), grid, LinearOperator(), moments=moments)


def test_by_hand() -> None:
    """Weights (0.4, 0.4), H = [[1, .9], [.9, 1]]. From (0, 0): x_1 = 0.4 + 0.9 * 0.4 = 0.76 -> 1; then x_2 = 0.4 - 0.9 * 0.6 < 0 -> 0."""
    task = problem(torch.tensor([[0.4, 0.4]]), torch.tensor([[1.0, 0.9], [0.9, 1.0]]))
    assert CoordinateDescent().round(task, torch.Generator()).codes.tolist() == [[1.0, 0.0]]


def test_codes_count_from_the_zero_point_and_stay_on_the_grid() -> None:
    """The same as above, shifted by 2 on 0 to 7; a weight of 9 ends at the last code, and what it misses goes to its neighbour."""
    gram = torch.tensor([[1.0, 0.9], [0.9, 1.0]])
    task = problem(torch.tensor([[0.4, 0.4], [9.0, 0.0]]), gram, zero_point=2.0, signed=False)
    # row 2: n_1 <= 5, misses 4, so x_2 = 0.9 * 4 = 3.6 -> 4; then n_1 = 9 - 0.9 * 4 = 5.4 -> 5 stays
    assert CoordinateDescent().round(task, torch.Generator()).codes.tolist() == [[3.0, 2.0], [7.0, 6.0]]


def test_more_sweeps_are_never_worse(generator: torch.Generator) -> None:
    inputs = torch.randn(200, 40, generator=generator) @ torch.randn(40, 40, generator=generator)
    task = problem(torch.randn(9, 40, generator=generator) * 2, inputs.T @ inputs / 200)
    quadratic = task.quadratic(asymmetric=False, centred=False, damping=0.0)
    errors = [quadratic.error(CoordinateDescent(num_sweeps=n).round(task, generator).codes[None]).sum() for n in (1, 2, 3, 25)]
    assert errors == sorted(errors, reverse=True) and errors[-1] < errors[0]
