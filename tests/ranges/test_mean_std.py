"""Mean and standard deviations, by hand."""

from __future__ import annotations

import pytest
import torch

from halfstep.grid import Grid
from halfstep.ranges import Distribution, Histogram, MeanStd

GRID = Grid(8, False, False)


def test_by_hand() -> None:
    """Values -3, 1, 1, 5: mean 1, variance (16 + 0 + 0 + 16) / 4 = 8."""
    distribution = Distribution.of_tensor(torch.tensor([-3.0, 1.0, 1.0, 5.0]))
    found = MeanStd(num_deviations=1).range(distribution, GRID)
    assert float(found.minimum) == pytest.approx(1 - 8**0.5, rel=1e-12)  # float64 throughout
    assert float(found.maximum) == pytest.approx(1 + 8**0.5, rel=1e-12)


@pytest.mark.parametrize("sign", [1, -1])
def test_values_on_one_side_by_hand(sign: int) -> None:
    """Values 0, 0, 3, 4: about 0 and without the zeros the deviation is sqrt((9 + 16) / 2)."""
    distribution = Distribution.of_tensor(sign * torch.tensor([0.0, 0.0, 3.0, 4.0]))
    found = MeanStd(num_deviations=1).range(distribution, GRID)
    ends = sorted((0.0, sign * 12.5**0.5))
    assert [float(found.minimum), float(found.maximum)] == pytest.approx(ends, rel=1e-12)


def test_behind_a_relu_the_upper_end_is_that_of_the_whole_gaussian(generator: torch.Generator) -> None:
    """Half a Gaussian has the deviation of the whole one about 0: 3 of them, known to some 1 % from 10,000 values."""
    x = torch.randn(20_000, generator=generator)
    for values in (x, x.relu()):
        histogram = Histogram()
        histogram.observe(values)
        found = MeanStd(num_deviations=3).range(histogram.distribution(), GRID)
        assert float(found.maximum) == pytest.approx(3.0, rel=0.03)
        assert float(found.minimum) == pytest.approx(-3.0 if values is x else 0.0, rel=0.03)


def test_more_deviations_cover_more_and_nothing_beyond_the_extremes(generator: torch.Generator) -> None:
    x = torch.randn(10_000, generator=generator)
    ends = [float(MeanStd(num_deviations=number).range(Distribution.of_tensor(x), GRID).maximum) for number in (2, 3, 100)]
    assert ends[0] < ends[1] < ends[2] == float(x.max())


def test_one_outlier_does_not_set_the_range(generator: torch.Generator) -> None:
    x = torch.randn(10_000, generator=generator)
    x[0] = 100.0
    found = MeanStd().range(Distribution.of_tensor(x), Grid(8, True))
    assert float(found.maximum) < 10.0  # variance 1 + 100^2 / 10^4 = 2, so 4 std = 5.7
