"""Exactly what was seen."""

from __future__ import annotations

import pytest
import torch

from halfstep.grid import Grid, quantize_affine
from halfstep.ranges import Distribution, Histogram, MinMax


def test_the_exact_extremes_of_a_tensor(generator: torch.Generator) -> None:
    x = torch.randn(1000, generator=generator)
    found = MinMax().range(Distribution.of_tensor(x), Grid(8, True))
    assert (found.minimum.tolist(), found.maximum.tolist()) == ([float(x.min())], [float(x.max())])


def test_a_histogram_gives_the_very_same(generator: torch.Generator) -> None:
    """The extremes are kept apart from the bins: they are no bin centres."""
    histogram, x = Histogram(), torch.randn(10, 100, generator=generator)
    for batch in x:
        histogram.observe(batch)
    found, exact = (MinMax().range(d, Grid(8, False, False)) for d in (histogram.distribution(), Distribution.of_tensor(x)))
    assert torch.equal(found.minimum, exact.minimum)
    assert torch.equal(found.maximum, exact.maximum)


@pytest.mark.parametrize("grid", [Grid(3, True), Grid(3, True, narrow=True), Grid(4, True, False), Grid(8, False, False)])
def test_nothing_is_clipped_by_more_than_half_a_step(grid: Grid, generator: torch.Generator) -> None:
    x = torch.randn(1000, generator=generator, dtype=torch.float64) * 3 + 1
    scale, zero_point = MinMax().range(Distribution.of_tensor(x.float()), grid).fit(grid)
    error = (quantize_affine(x, scale[0], zero_point[0], grid).dequantize() - x).abs()
    assert float(error.max()) <= float(scale) / 2 + float(x.abs().max()) * 2.0**-23  # x was rounded to float32 for its distribution


def test_channels(generator: torch.Generator) -> None:
    x = torch.randn(5, 40, generator=generator)
    found = MinMax().range(Distribution.of_tensor(x, 0), Grid(8, True, channel_axis=0))
    assert found.minimum.tolist() == x.amin(1).tolist()
    assert found.maximum.tolist() == x.amax(1).tolist()
