"""The divergence from the full distribution: against its definition, and against N2D2's search written out."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from halfstep.grid import Grid
from halfstep.ranges import Distribution, Histogram, KullbackLeibler, Range
from halfstep.ranges.kl import _Cumulated, _divergence
from halfstep.ranges.search import borders

Array = NDArray[np.float64]


def binned(x: torch.Tensor) -> Distribution:
    histogram = Histogram()
    histogram.observe(x)
    return histogram.distribution()


def definition(distribution: Distribution, scale: float, zero_point: float, grid: Grid) -> float:
    """Sum p log(p / q) over the pieces on which both densities are constant."""
    values, counts = distribution.values[0].double().numpy(), distribution.counts[0].double().numpy().copy()
    low, high = (float(end) for end in distribution.extremes())
    middles = np.clip((values[1:] + values[:-1]) / 2, float(distribution.minimum), float(distribution.maximum))
    knots = np.concatenate([[float(distribution.minimum)], middles, [float(distribution.maximum)]])
    counts[values == 0] = 0
    cells = np.concatenate([[low], np.clip((np.arange(grid.minimum, grid.maximum) + 0.5 - zero_point) * scale, low, high), [high]])
    edges = np.unique(np.concatenate([knots, cells]))
    density = counts / counts.sum() / np.maximum(np.diff(knots), 1e-300)
    inside = (edges[:-1] >= knots[0]) & (edges[1:] <= knots[-1])
    middle = (edges[:-1] + edges[1:]) / 2
    p = np.where(inside, density[np.clip(np.searchsorted(knots, middle) - 1, 0, len(density) - 1)], 0) * np.diff(edges)
    code = np.searchsorted(cells, middle) - 1
    mass, width = np.bincount(code, p, len(cells)), np.diff(cells, append=high)
    q = mass[code] * np.diff(edges) / width[code]
    return float((p[p > 0] * np.log(p[p > 0] / q[p > 0])).sum())


@pytest.mark.parametrize("grid", [Grid(3, True), Grid(4, False, False), Grid(8, False, False)], ids=str)
@pytest.mark.parametrize("kind", ["gauss", "relu", "shifted"])
def test_it_is_the_divergence_up_to_a_constant(kind: str, grid: Grid, generator: torch.Generator) -> None:
    """What is left out is the distribution's own entropy, the same for all ranges."""
    x = torch.randn(4000, generator=generator)
    distribution = binned({"gauss": x, "relu": x.relu(), "shifted": x.abs() + 0.5}[kind])
    low, high = distribution.extremes()
    factors = torch.tensor([[0.2, 0.35, 0.5, 0.7, 0.9, 1.0]]).double()
    scale, zero_point = Range(low[:, None] * factors, high[:, None] * factors).fit(grid)
    found = _divergence(_Cumulated(distribution), low, high, borders(scale, zero_point, grid))[0]
    exact = [definition(distribution, float(s), float(z), grid) for s, z in zip(scale[0], zero_point[0], strict=True)]
    difference = found.numpy() - np.array(exact)
    assert np.ptp(np.array(exact)) > 1e-3  # they differ
    assert np.ptp(difference) < 1e-9


def n2d2_threshold(x: Array, bits: int) -> float:
    """N2D2's search for values on one side of 0: 64 * 2^bits fine bins, 1,000 thresholds, 2^bits coarse bins."""
    largest, num_fine, num_coarse = x.max(), 64 * 2**bits, 2**bits
    fine, edges = np.histogram(x, num_fine, (0, largest))
    centres, best = (edges[1:] + edges[:-1]) / 2, (math.inf, largest)
    p = fine / fine.sum()
    for threshold in np.linspace(largest, largest / 1000, 1000):
        coarse = np.minimum((centres / threshold * num_coarse).astype(int), num_coarse - 1)
        q = (np.bincount(coarse, fine, num_coarse) / np.maximum(np.bincount(coarse, minlength=num_coarse), 1))[coarse]
        q /= q.sum()
        best = min(best, (float((p[p > 0] * np.log(p[p > 0] / q[p > 0])).sum()), float(threshold)))
    return best[1]


@pytest.mark.parametrize("bits", [4, 6])
@pytest.mark.parametrize("kind", ["exponential", "half gauss"])
def test_near_the_threshold_of_n2d2(kind: str, bits: int, generator: torch.Generator) -> None:
    """Its coarse bins lie half a step beside the codes: half of one in 2^bits - 1; the curve is flat around the best threshold."""
    x = torch.rand(200_000, generator=generator)
    x = -torch.log(x + 1e-7) if kind == "exponential" else torch.erfinv(x * (1 - 1e-6)) * 2**0.5
    found = KullbackLeibler().range(binned(x), Grid(bits, False, False))
    assert float(found.minimum) == 0
    assert float(found.maximum) == pytest.approx(n2d2_threshold(x.double().numpy(), bits), rel=0.12)


def test_a_long_tail_is_clipped(generator: torch.Generator) -> None:
    x = -torch.log(torch.rand(50_000, generator=generator) + 1e-7)
    shares = [float(KullbackLeibler().range(binned(x), Grid(bits, False, False)).maximum) / float(x.max()) for bits in (3, 4, 6)]
    assert 0.15 < shares[0] < shares[1] < shares[2] < 0.9  # the more codes, the less


def test_zeros_do_not_count(generator: torch.Generator) -> None:
    """Behind a ReLU most values are 0, and every grid has that code."""
    x = torch.randn(4000, generator=generator).abs()
    grid = Grid(4, False, False)
    plain, padded = (KullbackLeibler().range(binned(torch.cat([x, torch.zeros(number)])), grid) for number in (1, 100_000))
    assert float(plain.maximum) == float(padded.maximum)


def test_too_few_values_for_the_codes_are_all_kept(generator: torch.Generator) -> None:
    """Four values a code: 64 for 4 bits."""
    x = torch.cat([torch.randn(62, generator=generator), torch.tensor([40.0, -3.0])])
    for values, is_clipped in ((x, True), (x[1:], False)):
        found = KullbackLeibler().range(Distribution.of_tensor(values), Grid(4, True))
        assert (float(found.maximum) < 39) is is_clipped


def test_equal_values_make_no_cell_infinitely_good() -> None:
    """All mass in two points: a code for each alone has no width, but the loss stays finite and both are kept."""
    x = torch.tensor([1.0, 3.0]).repeat(100)
    distribution, grid = Distribution.of_tensor(x), Grid(3, False, False)
    low, high = distribution.extremes()
    scale, zero_point = Range(low[:, None].expand(1, 40), high[:, None] * torch.linspace(0.05, 1, 40).double()).fit(grid)
    found = _divergence(_Cumulated(distribution), low, high, borders(scale, zero_point, grid))
    assert bool(torch.isfinite(found).all())
    assert float(KullbackLeibler().range(distribution, grid).maximum) > 2
