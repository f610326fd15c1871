"""The code above."""

from __future__ import annotations

import torch

from halfstep.grid import Grid
from halfstep.rounding import Ceil, Floor, RoundingProblem


def test_by_hand(generator: torch.Generator) -> None:
    weight = torch.tensor([-9.0, -2.5, -0.1, 0.0, 0.1, 1.0, 6.1, 7.1])
    problem = RoundingProblem(weight, torch.tensor(1.0), torch.tensor(0.0), Grid(4, True))
    assert Ceil().round(problem, generator).codes.tolist() == [-8, -2, 0, 0, 1, 1, 7, 7]


def test_the_mirror_of_floor(generator: torch.Generator) -> None:
    weight, grid = torch.randn(1000, generator=generator), Grid(4, True, narrow=True)
    up, down = (
        method.round(RoundingProblem(w, torch.tensor(0.3), torch.tensor(0.0), grid), generator)
        for method, w in ((Ceil(), weight), (Floor(), -weight))
    )
    assert torch.equal(up.codes, -down.codes)
