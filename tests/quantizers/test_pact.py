"""PACT against the equations of its paper, in float64."""

from __future__ import annotations

import pytest
import torch
from learned_reference import gradients

from halfstep.errors import RecipeError
from halfstep.grid import Grid
from halfstep.quantizers import PactQuantizer
from halfstep.quantizers.learned import learned_kind


def made(grid: Grid, clip: float) -> PactQuantizer:
    quantizer = PactQuantizer(grid).double()
    quantizer.set(torch.tensor(clip / grid.maximum, dtype=torch.float64), torch.tensor(0.0))
    return quantizer


def test_the_papers_gradients(generator: torch.Generator) -> None:
    """Y = a round(clip(x, 0, a) 15 / a) / 15; dy/dx = 1 on (0, a); dy/da = 1 where x >= a, else 0."""
    clip = 1.3
    x = 2 * torch.randn(500, generator=generator, dtype=torch.float64)
    weights = torch.randn(x.shape, generator=generator, dtype=torch.float64)
    quantizer = made(Grid(4, False), clip)
    output, in_x = gradients(quantizer, x, weights)
    torch.testing.assert_close(output, (x.clamp(0, clip) * 15 / clip).round() * clip / 15, rtol=1e-12, atol=0)
    assert torch.equal(in_x, weights * ((x > 0) & (x < clip)))
    in_clip = (weights * (x >= clip)).sum()
    gradient = quantizer.clipping_point.logarithm.grad
    assert gradient is not None
    torch.testing.assert_close(gradient, in_clip / clip, rtol=1e-12, atol=1e-14)  # of ln a: see learned.py


def test_both_ends_of_a_signed_grid_follow_one_parameter() -> None:
    quantizer = made(Grid(4, True), 0.7)
    gradients(quantizer, torch.tensor([-5.0, 0.2, 5.0], dtype=torch.float64), torch.tensor([1.0, 1.0, 3.0], dtype=torch.float64))
    gradient = quantizer.clipping_point.logarithm.grad
    assert gradient is not None
    assert float(gradient) == pytest.approx((3 - 8 / 7) / 0.7, rel=1e-12)  # the lower end is -a (p + 1) / p


def test_it_starts_at_its_clip_and_refuses_one_below_0() -> None:
    quantizer = PactQuantizer(Grid(4, False), clip=6.0)
    quantizer.set(torch.tensor(1.0), torch.tensor(0.0))
    quantizer.start(torch.randn(5))
    assert float(quantizer.scale) == pytest.approx(6 / 15)
    with pytest.raises(RecipeError, match="clip"):
        learned_kind({"pact": {"clip": -1.0}})
