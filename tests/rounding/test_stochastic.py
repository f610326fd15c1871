"""Right on average, the same for the same seed."""

from __future__ import annotations

import math

import pytest
import torch

from halfstep.grid import Grid
from halfstep.rounding import RoundingProblem, Stochastic

NUM_DRAWS = 40_000


def codes(weight: torch.Tensor, grid: Grid, seed: int, zero_point: float = 0.0) -> torch.Tensor:
    problem = RoundingProblem(weight, torch.tensor(1.0), torch.tensor(zero_point), grid)
    return Stochastic().round(problem, torch.Generator().manual_seed(seed)).codes


@pytest.mark.parametrize("position", [-5.75, -0.5, -0.125, 0.0625, 0.5, 3.9375, 100.25])
@pytest.mark.parametrize("seed", [0, 1])
def test_unbiased(position: float, seed: int) -> None:
    """The mean of n draws has standard deviation sqrt(p (1 - p) / n): 5 of them, that is one failure in 10^6 seeds."""
    drawn = codes(torch.full((NUM_DRAWS,), position), Grid(8, True), seed)
    up = position - math.floor(position)
    assert set(drawn.tolist()) == {math.floor(position), math.floor(position) + 1}
    assert abs(float(drawn.double().mean()) - position) <= 5 * math.sqrt(up * (1 - up) / NUM_DRAWS)


def test_weights_are_drawn_independently() -> None:
    """The share of equal neighbours among n - 1 pairs of fair draws is 1/2 with standard deviation 1 / (2 sqrt(n - 1))."""
    drawn = codes(torch.full((NUM_DRAWS,), 0.5), Grid(8, True), 3)
    same = float((drawn[1:] == drawn[:-1]).double().mean())
    assert abs(same - 0.5) <= 5 / (2 * math.sqrt(NUM_DRAWS - 1))


@pytest.mark.parametrize("bits", [2, 4, 8, 16])
@pytest.mark.parametrize("signed", [True, False])
def test_a_weight_on_the_grid_stays(bits: int, signed: bool) -> None:
    """Whatever is drawn: its probability to move is 0. (At 16 bits, position + draw rounds up to the next integer once in 2^10 draws.)"""
    grid = Grid(bits, signed)
    weight = torch.full((NUM_DRAWS,), float(grid.maximum - 1))
    assert torch.equal(codes(weight, grid, 0), weight)


def test_unbiased_next_to_large_codes() -> None:
    """At 32766.25 an up-rounded sum would show as a shift; the bound is that of `test_unbiased`."""
    drawn = codes(torch.full((400_000,), 32766.0 + 2.0**-8), Grid(16, False), 0)
    share = float((drawn == 32767).double().mean())
    assert abs(share - 2.0**-8) <= 5 * math.sqrt(2.0**-8 / 400_000)


def test_the_same_seed_gives_the_same_codes_and_another_seed_others(generator: torch.Generator) -> None:
    weight = torch.randn(300, generator=generator)
    torch.manual_seed(5)
    first = codes(weight, Grid(4, True), 1)
    torch.manual_seed(6)  # PyTorch's own generator has no say
    assert torch.equal(codes(weight, Grid(4, True), 1), first)
    assert not torch.equal(codes(weight, Grid(4, True), 2), first)


def test_beyond_the_grid_there_is_nothing_to_draw() -> None:
    weight = torch.tensor([-50.5, 50.5]).repeat(100)
    assert codes(weight, Grid(4, True), 0).tolist() == [-8, 7] * 100
    assert codes(weight, Grid(4, False, False), 0, zero_point=3.0).tolist() == [0, 15] * 100
