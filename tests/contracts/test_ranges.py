"""Every registered range estimator against one contract: a new one is tested here the moment it is registered."""

from __future__ import annotations

import pytest
import torch

from halfstep.grid import Grid
from halfstep.ranges import RANGES, AbstractRange, Distribution, Histogram

pytestmark = pytest.mark.parametrize("name", list(RANGES))

NUM_CHANNELS = 6


def samples(generator: torch.Generator) -> torch.Tensor:
    """[6, 500]: gauss, positive, negative, with an outlier, zeros, nearly all zeros."""
    x = torch.randn(NUM_CHANNELS, 500, generator=generator)
    x[1], x[2] = x[1].abs(), -x[2].abs()
    x[3, 7] = 60.0
    x[4] = 0.0
    x[5, 1:] = 0.0
    return x


def distributions(x: torch.Tensor, is_per_channel: bool) -> list[Distribution]:
    """Of the tensor itself; for a single row from its histogram too."""
    if is_per_channel:
        return [Distribution.of_tensor(x, 0)]
    histogram = Histogram()
    histogram.observe(x)
    return [Distribution.of_tensor(x), histogram.distribution()]


@pytest.mark.parametrize("is_per_channel", [False, True])
@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize("bits", [2, 3, 4, 8])
def test_finite_with_zero_inside_the_extremes(
    name: str, bits: int, signed: bool, symmetric: bool, is_per_channel: bool, generator: torch.Generator
) -> None:
    grid, method = Grid(bits, signed, symmetric, 0 if is_per_channel else None), RANGES.create(name)
    for distribution in distributions(samples(generator), is_per_channel):
        before = [part.clone() for part in (distribution.values, distribution.counts)]
        found = method.range(distribution, grid)
        low, high = distribution.extremes()
        assert found.minimum.shape == found.maximum.shape == low.shape
        assert found.minimum.dtype == found.maximum.dtype == torch.float64
        assert bool(torch.isfinite(found.minimum).all() and torch.isfinite(found.maximum).all())
        assert bool((low <= found.minimum).all() and (found.minimum <= 0).all())
        assert bool((found.maximum >= 0).all() and (found.maximum <= high).all())
        scale, zero_point = found.fit(grid)
        assert bool((scale >= 0).all() and torch.isfinite(scale).all())
        assert bool(((grid.minimum <= zero_point) & (zero_point <= grid.maximum) & (zero_point == zero_point.round())).all())
        again = method.range(distribution, grid)
        assert torch.equal(found.minimum, again.minimum) and torch.equal(found.maximum, again.maximum)
        assert torch.equal(before[0], distribution.values) and torch.equal(before[1], distribution.counts)


@pytest.mark.parametrize("symmetric", [False, True])
def test_a_range_is_empty_only_where_all_values_are_zero(name: str, symmetric: bool, generator: torch.Generator) -> None:
    """However rare the others are: a step of 0 is no grid."""
    grid = Grid(8, True, symmetric)
    x = torch.zeros(3, 50_000)
    x[1, :5] = torch.randn(5, generator=generator)
    x[2, 0] = 1.0
    found = RANGES.create(name).range(Distribution.of_tensor(x, 0), grid)
    width = (found.maximum - found.minimum).tolist()
    assert width[0] == 0
    assert width[1] > 0
    assert width[2] > 0


@pytest.mark.parametrize("magnitude", [1e-40, 1e-30, 1e30])
def test_any_magnitude_of_float32(name: str, magnitude: float, generator: torch.Generator) -> None:
    x = torch.randn(2, 200, generator=generator) * magnitude
    distribution = Distribution.of_tensor(x, 0)
    for grid in (Grid(4, True, channel_axis=0), Grid(4, False, False, 0)):
        found = RANGES.create(name).range(distribution, grid)
        low, high = distribution.extremes()
        assert bool(((low <= found.minimum) & (found.minimum <= 0) & (found.maximum >= 0) & (found.maximum <= high)).all())
        assert bool((found.maximum > found.minimum).all())


def test_a_single_value(name: str) -> None:
    for value in (2.0, -2.0):
        for grid in (Grid(8, True), Grid(8, False, False)):
            found = RANGES.create(name).range(Distribution.of_tensor(torch.tensor([value])), grid)
            scale, zero_point = found.fit(grid)
            code = (torch.tensor(value) / scale).round() + zero_point
            restored = (code.clamp(grid.minimum, grid.maximum) - zero_point) * scale
            assert float(restored) == pytest.approx(value, abs=float(scale) / 2 * (1 + 1e-6))


def test_scaling_the_values_by_a_power_of_two_scales_the_range(name: str, generator: torch.Generator) -> None:
    """Every number of the computation is scaled exactly; only candidates in float32 may be rounded elsewhere."""
    x, grid = torch.randn(1000, generator=generator), Grid(4, False, False)
    plain, scaled = (RANGES.create(name).range(Distribution.of_tensor(x * factor), grid) for factor in (1.0, 2.0**20))
    assert float(scaled.minimum) == pytest.approx(float(plain.minimum) * 2.0**20, rel=1e-6)
    assert float(scaled.maximum) == pytest.approx(float(plain.maximum) * 2.0**20, rel=1e-6)


def test_is_a_range(name: str) -> None:
    assert issubclass(RANGES[name], AbstractRange)
    assert RANGES[name].name == name


def test_a_group_has_the_range_of_its_values(name: str, generator: torch.Generator) -> None:
    """Also the last one of each row, which is shorter, but for the bins that some methods make of the filled row."""
    x = torch.randn(3, 100, generator=generator) * torch.tensor([0.01, 1, 30])[:, None]
    grid = Grid(4, True, channel_axis=0, group_size=32)
    found = RANGES.create(name).range(Distribution.of_tensor(x, 0, 32), grid)
    alone = [RANGES.create(name).range(Distribution.of_tensor(part), grid.per_tensor()) for row in x for part in row.split(32)]
    # sums in another order, and a search that ends on a neighbouring factor where two are equally good: 1/512 of the range
    torch.testing.assert_close(found.maximum, torch.cat([part.maximum for part in alone]), rtol=4e-3, atol=1e-12)
    torch.testing.assert_close(found.minimum, torch.cat([part.minimum for part in alone]), rtol=4e-3, atol=1e-12)
