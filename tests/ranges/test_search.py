"""What the estimators that compare ranges by a loss share: the search, and the borders between codes."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from halfstep.grid import Grid, quantize_affine
from halfstep.ranges import RANGES, Distribution, Histogram
from halfstep.ranges.search import best_range, borders, in_parts, rounding_error

SEARCHING = ["mse", "mean_absolute_error", "kl", "entropy"]
TWO_SIDED = Grid(4, False, False)


@pytest.mark.parametrize("grid", [Grid(3, True), Grid(3, True, narrow=True), Grid(4, False), Grid(3, False, False)], ids=str)
def test_borders_are_where_rounding_changes_its_mind(grid: Grid) -> None:
    scale, zero_point = torch.tensor([[0.5, 0.25]]).double(), torch.tensor([[0.0, 0.0]]).double()
    if not grid.symmetric:
        zero_point = torch.tensor([[3.0, 1.0]]).double()
    found = borders(scale, zero_point, grid)
    assert found.shape == (1, 2, grid.num_levels - 1)
    for candidate in range(2):
        for side, wanted in ((-1e-9, 0), (1e-9, 1)):
            codes = quantize_affine(found[0, candidate] + side, scale[0, candidate], zero_point[0, candidate], grid).codes
            assert codes.tolist() == list(range(grid.minimum + wanted, grid.maximum + wanted))


def test_of_equal_ranges_the_widest_is_taken() -> None:
    x = torch.tensor([[-3.0, 0.0, 4.0], [0.0, 0.0, 0.0]])

    def nothing(scale: Tensor, zero_point: Tensor) -> Tensor:
        return torch.zeros_like(scale)

    for grid in (Grid(4, True, channel_axis=0), Grid(4, False, False, 0)):
        found = best_range(Distribution.of_tensor(x, 0), grid, nothing, 8)
        assert (found.minimum.tolist(), found.maximum.tolist()) == ([-3.0, 0.0], [4.0, 0.0])


def test_each_end_is_found_on_its_own() -> None:
    """A loss whose best range is [-1.25, 2.5] of extremes [-4, 4]; two passes of 32 resolve 1/512 of an end."""
    grid = Grid(16, False, False)  # a fine grid, so that the rounding of the zero point does not matter

    def distance(scale: Tensor, zero_point: Tensor) -> Tensor:
        low, high = (grid.minimum - zero_point) * scale, (grid.maximum - zero_point) * scale
        return (low + 1.25).square() + (high - 2.5).square()

    found = best_range(Distribution.of_tensor(torch.tensor([-4.0, 4.0])), grid, distance, 32)
    assert float(found.minimum) == pytest.approx(-1.25, abs=4 / 512)
    assert float(found.maximum) == pytest.approx(2.5, abs=4 / 512)


def test_in_parts_is_the_whole() -> None:
    """Three rows, more candidates than fit into one part."""
    grid, scale = Grid(16, True), torch.rand(3, 7).double()

    def loss(scale: Tensor, zero_point: Tensor) -> Tensor:
        shapes.append(scale.shape)
        return scale * 2 + zero_point

    shapes: list[torch.Size] = []
    assert torch.equal(in_parts(loss, grid)(scale, torch.ones_like(scale)), scale * 2 + 1)
    assert len(shapes) > 1 and sum(shape[1] for shape in shapes) == 7


def test_rounding_error_by_hand() -> None:
    """-1 -> -1, 0.3 -> 0.5, 2 -> 0.5 (clipped) with steps of 0.5 from -1 to 0.5; once, five times and three times."""
    values = torch.tensor([[-1.0, 0.3, 2.0]])
    distribution = Distribution(values, torch.tensor([[1.0, 5.0, 3.0]]), values[:, 0].double(), values[:, -1].double())
    scale, zero = torch.full((1, 1), 0.5), torch.zeros(1, 1)
    for measure, wanted in ((torch.abs_, 5 * 0.2 + 3 * 1.5), (torch.square_, 5 * 0.04 + 3 * 2.25)):
        assert float(rounding_error(distribution, scale, zero, Grid(2, True), measure)) == pytest.approx(wanted, rel=1e-6)


@pytest.mark.parametrize("name", SEARCHING)
@pytest.mark.parametrize("is_binned", [False, True])
def test_levels_are_counted_as_the_integers_are(name: str, is_binned: bool, generator: torch.Generator) -> None:
    """Positive values: the codes of uint4 and the non-negative ones of int5 are the same 16, so the ranges are too."""
    x = torch.randn(5000, generator=generator).abs().square()
    histogram = Histogram()
    histogram.observe(x)
    distribution = histogram.distribution() if is_binned else Distribution.of_tensor(x)
    ends = {grid: float(RANGES.create(name).range(distribution, grid).maximum) for grid in (Grid(4, False), Grid(5, True), Grid(4, True))}
    assert ends[Grid(4, False)] == pytest.approx(ends[Grid(5, True)], rel=1e-9)
    assert ends[Grid(4, True)] < ends[Grid(4, False)]  # half of the codes: more is clipped


@pytest.mark.parametrize("name", SEARCHING)
def test_negative_tails_count_as_positive_ones(name: str, generator: torch.Generator) -> None:
    """The range of -x is that of x mirrored, up to which of two neighbouring zero points is taken."""
    x = torch.cat([torch.randn(4000, generator=generator), 3 * torch.randn(40, generator=generator).abs()])
    plain, mirrored = (RANGES.create(name).range(Distribution.of_tensor(part), TWO_SIDED) for part in (x, -x))
    step = float(plain.maximum - plain.minimum) / 15
    assert float(mirrored.maximum) == pytest.approx(-float(plain.minimum), abs=1.5 * step)
    assert float(mirrored.minimum) == pytest.approx(-float(plain.maximum), abs=1.5 * step)
    outlier = torch.cat([x, torch.tensor([-60.0])])
    found = RANGES.create(name).range(Distribution.of_tensor(outlier), TWO_SIDED)
    assert float(found.minimum) > -30.0  # one negative value in 4,000 does not set the range


@pytest.mark.parametrize("name", SEARCHING)
def test_rows_as_if_alone(name: str, generator: torch.Generator) -> None:
    rows = torch.randn(3, 600, generator=generator) * torch.tensor([[1e-3], [1.0], [50.0]])
    rows[0] = rows[0].abs()
    grid = Grid(4, True, channel_axis=0)
    together = RANGES.create(name).range(Distribution.of_tensor(rows, 0), grid)
    for row in range(3):
        alone = RANGES.create(name).range(Distribution.of_tensor(rows[row]), Grid(4, True))
        for end in ("minimum", "maximum"):
            assert float(getattr(together, end)[row]) == pytest.approx(float(getattr(alone, end)), rel=1e-3, abs=1e-12)
