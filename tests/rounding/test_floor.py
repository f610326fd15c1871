"""The code below."""

from __future__ import annotations

import torch

from halfstep.grid import Grid
from halfstep.rounding import Floor, RoundingProblem


def test_by_hand(generator: torch.Generator) -> None:
    weight = torch.tensor([-9.0, -2.5, -0.1, 0.0, 0.9, 1.0, 7.9, 12.0])
    problem = RoundingProblem(weight, torch.tensor(1.0), torch.tensor(0.0), Grid(4, True))
    assert Floor().round(problem, generator).codes.tolist() == [-8, -3, -1, 0, 0, 1, 7, 7]


def test_scale_zero_point_and_channels(generator: torch.Generator) -> None:
    weight = torch.tensor([[0.3, 0.3], [-0.3, 5.0]])
    problem = RoundingProblem(weight, torch.tensor([0.125, 0.5]), torch.tensor([1.0, 2.0]), Grid(3, False, False, 1))
    # (0.3 / 0.125 + 1, 0.3 / 0.5 + 2) = (3.4, 2.6);  (-2.4 + 1, 10 + 2) = (-1.4, 12), clipped to 0..7
    assert Floor().round(problem, generator).codes.tolist() == [[3, 2], [0, 7]]
