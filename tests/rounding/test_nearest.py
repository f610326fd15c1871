"""The nearest code, half to even."""

from __future__ import annotations

import pytest
import torch

from halfstep.grid import Grid, quantize_affine
from halfstep.rounding import Nearest, RoundingProblem


def test_by_hand(generator: torch.Generator) -> None:
    weight = torch.tensor([-9.0, -2.5, -1.5, -0.5, -0.1, 0.0, 0.49, 0.5, 1.5, 6.9, 7.6])
    problem = RoundingProblem(weight, torch.tensor(1.0), torch.tensor(0.0), Grid(4, True))
    assert Nearest().round(problem, generator).codes.tolist() == [-8, -2, -2, 0, 0, 0, 0, 0, 2, 7, 7]


@pytest.mark.parametrize("grid", [Grid(4, True, True, 0), Grid(8, True, True, 0, True), Grid(3, False, False, 0), Grid(8, True)], ids=str)
def test_the_codes_its_quantizer_gives(grid: Grid, generator: torch.Generator) -> None:
    """No weight here lies within rounding of the middle between two codes, where the two may differ."""
    weight = torch.randn(5, 40, generator=generator)
    shape = () if grid.channel_axis is None else (5,)
    scale = torch.rand(shape, generator=generator) / 10 + 0.05
    zero_point = torch.zeros(shape) if grid.symmetric else torch.full(shape, 3.0)
    rounded = Nearest().round(RoundingProblem(weight, scale, zero_point, grid), generator)
    assert torch.equal(rounded.codes, quantize_affine(weight, scale, zero_point, grid).codes)


def test_ties_go_where_the_quantizer_sends_them(generator: torch.Generator) -> None:
    """Rounding a weight and simulating it must mean one thing: an odd zero point does not turn the ties around."""
    weight = torch.arange(-4.5, 5.0)
    for zero_point in (torch.tensor(7.0), torch.tensor(8.0)):
        grid = Grid(8, False, False)
        rounded = Nearest().round(RoundingProblem(weight, torch.tensor(1.0), zero_point, grid), generator)
        assert torch.equal(rounded.codes, quantize_affine(weight, torch.tensor(1.0), zero_point, grid).codes)
