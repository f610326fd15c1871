"""Two-sided quantiles, against sorting and counting in exact fractions."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from halfstep.grid import Grid
from halfstep.ranges import Distribution, Histogram, Percentile
from halfstep.ranges.histogram import HALF

GRID = Grid(8, False, False)
PERCENTILES = st.sampled_from(["60", "75", "90", "95", "99", "99.5", "99.9", "99.99", "100"])


def expected(values: list[float], percentile: str) -> tuple[float, float]:
    """The smallest value up to which p % of the values lie, and the largest from which on p % lie; widened to contain 0."""
    ordered = sorted(values)
    rank = math.ceil(Fraction(percentile) / 100 * len(ordered))
    return min(ordered[-rank], 0.0), max(ordered[rank - 1], 0.0)


def found(distribution: Distribution, percentile: str) -> tuple[float, float]:
    ends = Percentile(percentile=float(percentile)).range(distribution, GRID)
    return float(ends.minimum), float(ends.maximum)


@settings(deadline=None, max_examples=100)
@given(st.lists(st.floats(-100, 100, width=32), min_size=1, max_size=60), PERCENTILES)
def test_quantiles_of_a_tensor_equal_the_reference(values: list[float], percentile: str) -> None:
    ends = expected(values, percentile)
    assume(ends != (0.0, 0.0))  # an empty range would be no range: contracts/test_ranges.py
    assert found(Distribution.of_tensor(torch.tensor(values)), percentile) == ends


@pytest.mark.parametrize("percentile", ["75", "90", "99", "99.9", "99.99", "99.999", "100"])
@pytest.mark.parametrize("count", [100, 1000, 10_000, 123_457])
def test_quantiles_of_many_values_equal_the_reference(count: int, percentile: str, generator: torch.Generator) -> None:
    x = torch.randn(count, generator=generator)
    assert found(Distribution.of_tensor(x), percentile) == expected(x.tolist(), percentile)


def test_the_reference_is_numpys_inverted_cdf(generator: torch.Generator) -> None:
    x = torch.randn(997, generator=generator)
    low, high = found(Distribution.of_tensor(x), "99")
    assert high == pytest.approx(float(np.quantile(x.double().numpy(), 0.99, method="inverted_cdf")), abs=0)
    assert low == pytest.approx(-float(np.quantile(-x.double().numpy(), 0.99, method="inverted_cdf")), abs=0)


@pytest.mark.parametrize("percentile", ["90", "99", "99.9"])
def test_a_histogram_is_right_to_half_a_bin(percentile: str, generator: torch.Generator) -> None:
    x = torch.randn(20_000, generator=generator)
    histogram = Histogram()
    histogram.observe(x)
    half = 2.0 ** ((histogram.exponent or 0) - 1)
    assert found(histogram.distribution(), percentile) == pytest.approx(expected(x.tolist(), percentile), abs=half)


def test_both_tails_are_cut() -> None:
    x = torch.cat([torch.linspace(-1, 1, 9998), torch.tensor([50.0, -80.0])])
    low, high = found(Distribution.of_tensor(x), "99.9")
    assert -1 <= low < -0.99
    assert 0.99 < high <= 1


@pytest.mark.parametrize("sign", [1, -1])
def test_a_one_sided_tensor_keeps_its_end_at_zero(sign: int, generator: torch.Generator) -> None:
    x = sign * torch.rand(1000, generator=generator)
    low, high = found(Distribution.of_tensor(x), "99")
    assert (low, high) == expected(x.tolist(), "99")
    assert (low if sign > 0 else high) == 0.0


@pytest.mark.parametrize("num_zeros", [2**10, 2**25, 2**31])
def test_a_hundred_percent_is_everything_however_many_values_there_are(num_zeros: int) -> None:
    """A calibration set has 10^8 values a tensor: more than float32 can count one by one."""
    histogram = Histogram()
    histogram.observe(torch.tensor([0.0, -3.0, 5.0]))
    histogram.counts[HALF] = num_zeros
    low, high = found(histogram.distribution(), "100")
    width = 2.0 ** (histogram.exponent or 0)
    assert low == pytest.approx(-3.0, abs=width / 2)
    assert high == pytest.approx(5.0, abs=width / 2)


def test_rare_values_are_counted_exactly_among_many() -> None:
    """10 of 10^8 values are large: 99.99999 % keeps the smallest of them only."""
    values = torch.cat([torch.zeros(1), torch.arange(1.0, 11.0)])[None]
    counts = torch.cat([torch.tensor([1e8 - 10]), torch.ones(10)])[None]
    distribution = Distribution(values, counts, torch.zeros(1, dtype=torch.float64), torch.tensor([10.0], dtype=torch.float64))
    for share, end in (("99.999991", 1.0), ("99.999995", 5.0), ("99.999999", 9.0)):
        assert found(distribution, share) == (0.0, end)


def test_channels_are_treated_each_on_its_own(generator: torch.Generator) -> None:
    x = torch.randn(6, 300, generator=generator) * torch.tensor([1e-3, 0.1, 1, 10, 1e3, 0])[:, None]
    together = Percentile(percentile=98).range(Distribution.of_tensor(x, 0), GRID)
    for channel in range(6):
        assert (float(together.minimum[channel]), float(together.maximum[channel])) == expected(x[channel].tolist(), "98")


@pytest.mark.parametrize("percentile", [50, 0, -1, 100.1, 1000])
def test_a_percentile_is_above_50_and_at_most_100(percentile: float) -> None:
    with pytest.raises(ValidationError):
        Percentile(percentile=percentile)
