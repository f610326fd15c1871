"""SAWB: its constants by the fit they come from, its grid and gradient by hand, in float64."""

from __future__ import annotations

import math

import pytest
import torch
from learned_reference import gradients
from torch import Tensor

from halfstep.grid import Grid
from halfstep.quantizers import SawbQuantizer
from halfstep.quantizers.sawb import CONSTANTS

NUM_QUANTILES = 2001


def magnitudes() -> list[Tensor]:
    """Quantiles of |w| of the six distributions of the paper."""
    q = (torch.arange(NUM_QUANTILES, dtype=torch.float64) + 0.5) / NUM_QUANTILES
    angle = torch.linspace(0, math.pi, 20_001, dtype=torch.float64)
    below = torch.cumsum(torch.exp(torch.cos(angle)), 0)
    von_mises = angle[torch.searchsorted(below / below[-1], q).clamp(max=20_000)]
    normal = math.sqrt(2) * torch.erfinv(q)
    return [normal, q, -torch.log1p(-q), torch.log((1 + q) / (1 - q)), 1 - torch.sqrt(1 - q), von_mises]


def best_clipping_point(x: Tensor, levels: Tensor) -> float:
    """The one with the least squared error, on a fine grid of candidates."""
    middles = (levels[1:] + levels[:-1]) / 2
    candidates = torch.linspace(0.5 * float(x.mean()), 5 * float(x.mean()), 1000, dtype=torch.float64)
    errors = [float((levels[torch.bucketize(x / a, middles)] * a - x).square().sum()) for a in candidates]
    return float(candidates[min(range(len(errors)), key=errors.__getitem__)])


def fitted(levels: list[float]) -> list[float]:
    """c1, -c2 of a / E|w| = c1 sqrt(E[w^2]) / E|w| - c2 by least squares."""
    left, right = [], []
    for x in magnitudes():
        mean = float(x.mean())
        left.append([float(x.square().mean()) ** 0.5 / mean, 1.0])
        right.append([best_clipping_point(x, torch.tensor(levels, dtype=torch.float64)) / mean])
    found = torch.linalg.lstsq(torch.tensor(left, dtype=torch.float64), torch.tensor(right, dtype=torch.float64))
    return [float(value) for value in found.solution.flatten()]


def test_the_fit_gives_the_papers_constants_for_the_papers_levels() -> None:
    assert fitted([1 / 3, 1.0]) == pytest.approx([3.12, -2.064], rel=0.02)


def test_the_fit_gives_ours_for_levels_that_hold_0() -> None:
    assert fitted([0.0, 1.0]) == pytest.approx([CONSTANTS[2][0], -CONSTANTS[2][1]], rel=0.02)


@pytest.mark.parametrize("bits", [2, 3, 4])
def test_the_equation_and_its_gradient(bits: int, generator: torch.Generator) -> None:
    w = torch.randn(6, 400, generator=generator, dtype=torch.float64)
    weights = torch.randn(w.shape, generator=generator, dtype=torch.float64)
    quantizer = SawbQuantizer(Grid(bits, True, channel_axis=0, narrow=True), 6, is_weight=True).double()
    quantizer.set(torch.ones(6), torch.zeros(6))
    output, in_w = gradients(quantizer, w, weights)
    first, second = CONSTANTS[bits]
    a = first * w.square().mean(1, keepdim=True).sqrt() - second * w.abs().mean(1, keepdim=True)
    highest = 2 ** (bits - 1) - 1
    torch.testing.assert_close(output, (w.clamp(-a, a) * highest / a).round() * a / highest, rtol=1e-12, atol=1e-14)
    torch.testing.assert_close(in_w, weights, rtol=1e-12, atol=0)


@pytest.mark.parametrize("bits", [2, 3, 4])
def test_weights_of_any_kind_have_a_clipping_point(bits: int, generator: torch.Generator) -> None:
    """Two values of one magnitude, for which the line is below 0 at 4 bits; one outlier; nothing but 0."""
    quantizer = SawbQuantizer(Grid(bits, True), is_weight=True)
    quantizer.set(torch.tensor(0.5), torch.tensor(0.0))
    signs = torch.tensor([1.0, -1.0] * 10)
    torch.testing.assert_close(quantizer(signs), signs)
    outlier = torch.zeros(1000)
    outlier[0] = 1.0
    found = quantizer(outlier)
    assert 0 < float(found[0]) <= 1
    assert not found[1:].any()
    assert torch.equal(quantizer(torch.zeros(5)), torch.zeros(5))


def test_other_grids_keep_what_calibration_found(generator: torch.Generator) -> None:
    x = torch.randn(100, generator=generator)
    for quantizer in (SawbQuantizer(Grid(8, True), is_weight=True), SawbQuantizer(Grid(2, False))):
        quantizer.set(torch.tensor(0.1), torch.tensor(0.0))
        expected = (x / 0.1).round().clamp(quantizer.grid.minimum, quantizer.grid.maximum) * 0.1
        torch.testing.assert_close(quantizer(x), expected)
