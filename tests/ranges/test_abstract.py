"""How a range becomes a scale and a zero point."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from halfstep.grid import Grid
from halfstep.ranges import Range

MAGNITUDES = st.one_of(st.just(0.0), st.floats(1e-30, 1e30), st.floats(0.01, 100))
GRIDS = st.builds(
    lambda bits, signed, symmetric, narrow: Grid(bits, signed, symmetric, None, narrow and signed),
    st.integers(2, 16),
    st.booleans(),
    st.booleans(),
    st.booleans(),
)
ROUNDINGS = 1e-12  # a handful of roundings in float64 (2^-53 each) of numbers up to 2^17 steps: 2^-53 * 2^17 * 8 < 1e-10 steps


def fit(low: float, high: float, grid: Grid) -> tuple[float, float]:
    ends = torch.tensor([low], dtype=torch.float64), torch.tensor([high], dtype=torch.float64)
    scale, zero_point = Range(*ends).fit(grid)
    assert scale.shape == zero_point.shape == (1,)
    assert scale.dtype == zero_point.dtype == torch.float64
    return float(scale), float(zero_point)


@settings(deadline=None, max_examples=150)
@given(MAGNITUDES, MAGNITUDES, GRIDS)
def test_zero_is_a_code_and_the_range_is_covered(low: float, high: float, grid: Grid) -> None:
    low = -low
    scale, zero_point = fit(low, high, grid)
    assert zero_point == round(zero_point)
    assert grid.minimum <= zero_point <= grid.maximum  # so (zero_point - zero_point) * scale == 0 is on the grid
    bottom, top = (grid.minimum - zero_point) * scale, (grid.maximum - zero_point) * scale
    slack = ROUNDINGS * max(-low, high)
    if grid.symmetric:
        assert zero_point == 0
        assert top >= high - slack
        assert not grid.signed or bottom <= low + slack
    else:
        half = scale / 2 + slack
        assert bottom <= low + half
        assert top >= high - half


@settings(deadline=None, max_examples=100)
@given(MAGNITUDES, MAGNITUDES, GRIDS)
def test_the_grid_is_no_wider_than_the_range_asks(low: float, high: float, grid: Grid) -> None:
    scale, zero_point = fit(-low, high, grid)
    if grid.symmetric:
        used = max(high / grid.maximum, low / -grid.minimum if grid.signed else 0.0)
        assert scale == pytest.approx(used, rel=1e-15)
    else:
        assert scale == pytest.approx((low + high) / (grid.num_levels - 1), rel=1e-15)
        assert (grid.minimum - zero_point) * scale >= -low - scale / 2 - ROUNDINGS * (low + high)


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("signed", [True, False])
def test_an_empty_range_has_scale_zero(signed: bool, symmetric: bool) -> None:
    grid = Grid(8, signed, symmetric)
    scale, zero_point = fit(0.0, 0.0, grid)
    assert scale == 0
    assert grid.minimum <= zero_point <= grid.maximum


@pytest.mark.parametrize(
    ("grid", "low", "high", "scale", "zero_point"),
    [
        (Grid(8, True), -1.0, 1.27, 0.01, 0),  # 1 / 128 is smaller than 1.27 / 127
        (Grid(8, True), -1.28, 1.0, 0.01, 0),
        (Grid(8, True, narrow=True), -1.28, 1.0, 1.28 / 127, 0),
        (Grid(8, False), -5.0, 2.55, 0.01, 0),  # an unsigned symmetric grid has no codes below 0
        (Grid(8, False, False), -1.0, 1.55, 0.01, 100),
        (Grid(8, True, False), -1.0, 1.55, 0.01, -28),
        (Grid(8, False, False), 0.0, 2.55, 0.01, 0),
        (Grid(8, False, False), -2.55, 0.0, 0.01, 255),
        (Grid(2, False, False), -1.0, 2.0, 1.0, 1),
    ],
)
def test_by_hand(grid: Grid, low: float, high: float, scale: float, zero_point: int) -> None:
    assert fit(low, high, grid) == (pytest.approx(scale, rel=1e-14), zero_point)


def test_channels_are_fitted_each_on_its_own() -> None:
    low, high = torch.tensor([-1.0, 0.0, -3.0], dtype=torch.float64), torch.tensor([1.0, 0.0, 0.5], dtype=torch.float64)
    for grid in (Grid(4, True, channel_axis=0), Grid(4, False, False, 0)):
        scale, zero_point = Range(low, high).fit(grid)
        alone = [fit(float(a), float(b), grid) for a, b in zip(low, high, strict=True)]
        assert list(zip(scale.tolist(), zero_point.tolist(), strict=True)) == alone
