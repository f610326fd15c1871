"""Entropy calibration: against its definition bin by bin, and against TensorRT's procedure written out."""

from __future__ import annotations

import math
from collections import Counter

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from halfstep.grid import Grid
from halfstep.ranges import Distribution, Entropy, Histogram, Range
from halfstep.ranges.entropy import _Bins

Array = NDArray[np.float64]


def binned(x: torch.Tensor) -> Distribution:
    histogram = Histogram()
    histogram.observe(x)
    return histogram.distribution()


def definition(counts: dict[int, float], width: float, scale: float, zero_point: float, grid: Grid) -> float:
    """D of one range, from the counts of its fine bins."""
    code = {index: math.ceil((index + 0.5) * width / scale + zero_point - 0.5) for index in counts}
    inside = [index for index in sorted(counts) if grid.minimum <= code[index] <= grid.maximum]
    if not inside:
        return math.inf
    total, in_range = sum(counts.values()), sum(counts[index] for index in inside)
    clipped = {index: counts[index] for index in inside}
    clipped[inside[0]] += sum(count for index, count in counts.items() if index < inside[0])
    clipped[inside[-1]] += sum(count for index, count in counts.items() if index > inside[-1])
    masses, sizes = Counter[int](), Counter(code[index] for index in inside)
    for index in inside:
        masses[code[index]] += int(counts[index])
    shares = {index: masses[code[index]] / sizes[code[index]] / in_range for index in inside}
    return sum(clipped[index] / total * math.log(clipped[index] / total / shares[index]) for index in inside)


@pytest.mark.parametrize("grid", [Grid(3, True), Grid(4, False, False), Grid(6, False, False)], ids=str)
@pytest.mark.parametrize("kind", ["gauss", "relu", "negative", "a few values"])
def test_it_is_the_divergence_of_the_clipped_distribution(kind: str, grid: Grid, generator: torch.Generator) -> None:
    x = torch.randn(3000, generator=generator)
    distribution = binned({"gauss": x, "relu": x.relu(), "negative": -x.abs(), "a few values": x[:20].round(decimals=1)}[kind])
    bins = _Bins(distribution)
    width, values = float(bins._width), distribution.values[0].tolist()
    counts: dict[int, float] = Counter()
    for value, count in zip(values, distribution.counts[0].tolist(), strict=True):
        if value != 0:
            counts[math.floor(value / width)] += count
    low, high = distribution.extremes()
    from_low, from_high = torch.tensor([0.02, 0.1, 0.4, 0.7, 1.0]).double(), torch.tensor([0.3, 0.01, 0.6, 0.5, 1.0]).double()
    scale, zero_point = Range(low[:, None] * from_low, high[:, None] * from_high).fit(grid)
    found = bins.divergence(scale, zero_point, grid)[0].tolist()
    for index in range(5):
        exact = definition(counts, width, float(scale[0, index]), float(zero_point[0, index]), grid)
        assert found[index] == pytest.approx(exact, rel=1e-9, abs=1e-12)


def tensorrt(magnitudes: Array) -> dict[float, float]:
    """By threshold: 2,048 bins of |x|; for every i from 128 on the first i bins, the rest added to the last, against 128 equal parts."""
    counts, edges = np.histogram(magnitudes, 2048, (0, magnitudes.max()))
    counts[0] = counts[1]
    found = {}
    for size in range(128, 2049):
        inside = counts[:size].astype(float)
        part = np.minimum(np.arange(size) * 128 // size, 127)
        mass, number = np.bincount(part, inside, 128), np.bincount(part, inside > 0, 128)
        q = np.where(inside > 0, (mass / np.maximum(number, 1))[part], 0)
        p = inside.copy()
        p[-1] += counts[size:].sum()
        if q[-1] > 0 or p[-1] == 0:
            p, q = p / p.sum(), q / q.sum()
            found[float(edges[size])] = float((p[p > 0] * np.log(p[p > 0] / q[p > 0])).sum())
    return found


@pytest.mark.parametrize("kind", ["exponential", "gauss", "outliers"])
def test_as_good_a_threshold_as_that_of_tensorrt(kind: str, generator: torch.Generator) -> None:
    """int8 with codes -127 to 127. By TensorRT's own measure, which is flat around its best and doubles from there to half of it."""
    x = torch.rand(200_000, generator=generator)
    sign = torch.randn(200_000, generator=generator).sign()
    x = sign * (torch.erfinv(x * (1 - 1e-7)) * 2**0.5 if kind == "gauss" else -torch.log(x + 1e-7))
    if kind == "outliers":
        x[:20] *= 4
    divergences = tensorrt(x.abs().double().numpy())
    found = float(Entropy().range(binned(x), Grid(8, True, narrow=True)).maximum)

    def near(threshold: float) -> float:
        """Their smallest divergence within 1 % of a threshold: from counts the curve is rough."""
        return min(value for other, value in divergences.items() if abs(other / threshold - 1) < 0.01)

    best = min(divergences, key=divergences.__getitem__)
    assert near(found) <= 1.15 * divergences[best]
    assert near(best / 2) > 2 * divergences[best]


def test_zeros_do_not_count(generator: torch.Generator) -> None:
    x = torch.randn(4000, generator=generator).abs()
    grid = Grid(4, False, False)
    plain, padded = (Entropy().range(binned(torch.cat([x, torch.zeros(number)])), grid) for number in (1, 100_000))
    assert float(plain.maximum) == float(padded.maximum)


def test_a_channel_of_a_small_weight_is_kept(generator: torch.Generator) -> None:
    """A bin for each value looks the same in every code, and what is clipped does not."""
    x = torch.randn(100, generator=generator)
    found = Entropy().range(Distribution.of_tensor(x), Grid(4, True))
    assert float(found.maximum - found.minimum) > 0.95 * float(x.max() - x.min())


def test_many_rows_are_searched_in_parts(generator: torch.Generator) -> None:
    rows = torch.randn(130, 200, generator=generator) * torch.rand(130, 1, generator=generator)
    grid = Grid(2, True, channel_axis=0)
    together = Entropy().range(Distribution.of_tensor(rows, 0), grid)
    for row in (0, 63, 64, 129):
        alone = Entropy().range(Distribution.of_tensor(rows[row]), Grid(2, True))
        assert float(together.maximum[row]) == float(alone.maximum)
