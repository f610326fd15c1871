"""The least absolute error: by hand, against two thousand ranges, and beside the least squared one."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from halfstep.grid import Grid
from halfstep.ranges import Distribution, MeanAbsoluteError, MeanSquaredError, MinMax, Range

GRIDS = [Grid(bits, signed, symmetric) for bits in (3, 4, 8) for signed, symmetric in ((True, True), (False, False))]


def error_of(found: Range, x: torch.Tensor, grid: Grid) -> float:
    """Sum of |x - quantized x| in float64, from the definition."""
    scale, zero_point = (float(part) for part in found.fit(grid))
    exact = x.double().numpy()
    if scale == 0:
        return float(np.abs(exact).sum())
    codes = np.clip(np.rint(exact / scale) + zero_point, grid.minimum, grid.maximum)
    return float(np.abs(exact - (codes - zero_point) * scale).sum())


@pytest.mark.parametrize("grid", GRIDS, ids=str)
@pytest.mark.parametrize("kind", ["gauss", "laplace", "relu", "outlier"])
def test_as_good_as_trying_two_thousand_ranges(kind: str, grid: Grid, generator: torch.Generator) -> None:
    """The search resolves 1/512 of each end; 1 % above the best of 2,000 is let pass."""
    x = torch.randn(1000, generator=generator)
    if kind == "laplace":
        x = x.sign() * -torch.log(torch.rand(1000, generator=generator) + 1e-6)
    elif kind == "relu":
        x = x.relu()
    elif kind == "outlier":
        x[0] = 15.0
    low, high = min(float(x.min()), 0.0), float(x.max())
    if grid.symmetric or low == 0:
        pairs = [(low * t, high * t) for t in np.linspace(1 / 2000, 1, 2000)]
    else:
        pairs = [(low * s, high * t) for s in np.linspace(1 / 45, 1, 45) for t in np.linspace(1 / 45, 1, 45)]
    best = min(error_of(Range(torch.tensor([a]).double(), torch.tensor([b]).double()), x, grid) for a, b in pairs)
    found = MeanAbsoluteError().range(Distribution.of_tensor(x), grid)
    assert error_of(found, x, grid) <= 1.01 * best


@settings(deadline=None, max_examples=60)
@given(st.lists(st.floats(-10, 10, width=32).filter(lambda value: value == 0 or abs(value) > 1e-6), min_size=2, max_size=12))
def test_never_worse_than_min_max(values: list[float]) -> None:
    x, grid = torch.tensor(values), Grid(4, False, False)
    found, all_of_it = (method.range(Distribution.of_tensor(x), grid) for method in (MeanAbsoluteError(), MinMax()))
    assert error_of(found, x, grid) <= error_of(all_of_it, x, grid) * (1 + 1e-5) + 1e-6 * float(x.abs().sum())


def test_rare_values_weigh_less_than_in_the_squared_error(generator: torch.Generator) -> None:
    """Exponential tails: the absolute error clips more of them."""
    x = -torch.log(torch.rand(20_000, generator=generator) + 1e-9)
    grid = Grid(4, False, False)
    ends = [float(method.range(Distribution.of_tensor(x), grid).maximum) for method in (MeanAbsoluteError(), MeanSquaredError())]
    assert ends[0] < 0.9 * ends[1] < float(x.max())
