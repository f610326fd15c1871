"""The range of least output error: against every scale there is, by channel and by tensor."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from halfstep.grid import Grid, quantize_affine
from halfstep.ranges import AbstractRange, Distribution, MeanSquaredError, MinMax, OutputMeanSquaredError


def problem(generator: torch.Generator, groups: int = 2, rows: int = 3, d: int = 12) -> tuple[Tensor, Tensor, Tensor]:
    """Rows, a gram matrix with strong correlations, and an aim that is not quite the rows."""
    weight = torch.randn(groups, rows, d, generator=generator)
    x = torch.randn(groups, 4 * d, d, generator=generator, dtype=torch.float64) + 1
    target = weight.double() + 0.05 * torch.randn(groups, rows, d, generator=generator, dtype=torch.float64)
    return weight, x.transpose(1, 2) @ x / (4 * d), target


def start(weight: Tensor, grid: Grid, found: AbstractRange | None = None) -> tuple[Tensor, Tensor]:
    """What the calibration sets."""
    flat = weight.flatten(0, 1)
    distribution = Distribution.of_tensor(flat, grid.channel_axis)
    scale, zero_point = (found or OutputMeanSquaredError()).range(distribution, grid).fit(grid)
    return (scale.squeeze(0), zero_point.squeeze(0)) if grid.channel_axis is None else (scale, zero_point)


def error(weight: Tensor, gram: Tensor, target: Tensor, grid: Grid, scale: Tensor, zero_point: Tensor) -> Tensor:
    """Of each row, rounded to nearest with its own scale or the common one: [G, R]."""
    shape = (1, 1, 1) if scale.ndim == 0 else (*weight.shape[:2], 1)
    s, z = scale.double().reshape(shape), zero_point.double().reshape(shape)
    difference = (torch.round(weight.double() / s) + z).clamp(grid.minimum, grid.maximum).sub(z) * s - target
    return ((difference @ gram) * difference).sum(-1)


@pytest.mark.parametrize("channel_axis", [None, 0])
def test_as_good_as_a_thousand_scales(channel_axis: int | None, generator: torch.Generator) -> None:
    """Within 2 % of the best of 1000 evenly spaced scales: the error jumps where a weight changes its code, so the two do not meet."""
    weight, gram, target = problem(generator)
    grid = Grid(3, True, channel_axis=channel_axis)
    scale, zero_point = OutputMeanSquaredError(num_candidates=256).refine(weight, gram, target, grid, *start(weight, grid))
    widest, _ = start(weight, grid, MinMax())
    shares = torch.linspace(0.01, 1, 1000, dtype=torch.float64)
    tried = torch.stack([error(weight, gram, target, grid, widest * share, torch.zeros_like(widest)) for share in shares])
    least = tried.amin(0) if channel_axis == 0 else tried.sum((1, 2)).amin()
    found = error(weight, gram, target, grid, scale, zero_point)
    assert bool(((found if channel_axis == 0 else found.sum()) <= 1.02 * least).all())


@pytest.mark.parametrize("grid", [Grid(4, True), Grid(2, True, channel_axis=0), Grid(3, False, False), Grid(3, False, False, 0)], ids=str)
def test_never_worse_than_the_start(grid: Grid, generator: torch.Generator) -> None:
    weight, gram, target = problem(generator, d=9)
    for range_ in (MeanSquaredError(), MinMax()):
        before = start(weight, grid, range_)
        after = OutputMeanSquaredError().refine(weight, gram, target, grid, *before)
        assert [tensor.shape for tensor in after] == [tensor.shape for tensor in before]
        assert torch.equal(after[1], after[1].round()) and bool((after[0] > 0).all())
        old, new = (error(weight, gram, target, grid, *pair) for pair in (before, after))
        if grid.channel_axis is None:
            old, new = old.sum(), new.sum()
        assert bool((new <= old * (1 + 1e-9)).all())
        assert float(new.sum()) < float(old.sum())


@pytest.mark.parametrize("symmetric", [False, True])
def test_groups_are_never_worse_than_the_start(symmetric: bool, generator: torch.Generator) -> None:
    """Together, for a row's error is not the sum of its groups'; 9 entries in groups of 4, 4 and 1."""
    weight, gram, target = problem(generator, groups=1, rows=5, d=9)
    grid = Grid(3, True, symmetric, 0, group_size=4)
    distribution = Distribution.of_tensor(weight[0], 0, 4)
    before = [part.view(5, 3) for part in MinMax().range(distribution, grid).fit(grid)]
    after = OutputMeanSquaredError().refine(weight, gram, target, grid, *before)
    assert all(part.shape == (5, 3) for part in after) and bool((after[0] > 0).all())

    def total(scale: Tensor, zero_point: Tensor) -> Tensor:
        difference = quantize_affine(weight[0].double(), scale.double(), zero_point.double(), grid).dequantize() - target[0]
        return ((difference @ gram[0]) * difference).sum(-1)

    old, new = total(*before), total(*after)
    assert bool((new <= old * (1 + 1e-9)).all())
    assert float(new.sum()) < 0.9 * float(old.sum())


def test_float32_in_float32_out(generator: torch.Generator) -> None:
    weight, gram, target = problem(generator)
    scale, zero_point = OutputMeanSquaredError().refine(weight, gram, target, Grid(4, True), torch.tensor(0.3), torch.tensor(0.0))
    assert scale.dtype == zero_point.dtype == torch.float32


def test_what_the_data_do_not_see_does_not_count() -> None:
    """The second input is always 0, so its large weight may be clipped: the first two codes then meet 1.0 and -0.5 exactly."""
    weight, gram = torch.tensor([[[1.0, 40.0, -0.5]]]), torch.diag(torch.tensor([1.0, 0.0, 1.0], dtype=torch.float64))[None]
    grid = Grid(4, True)
    scale, zero_point = OutputMeanSquaredError(num_candidates=500).refine(weight, gram, weight.double(), grid, *start(weight, grid))
    assert float(error(weight, gram, weight.double(), grid, scale, zero_point)) < 1e-3
    assert 7 * float(scale) < 4


def test_without_data_it_is_the_range_of_least_squared_error(generator: torch.Generator) -> None:
    distribution = Distribution.of_tensor(torch.randn(200, generator=generator))
    found, expected = (method.range(distribution, Grid(4, True)) for method in (OutputMeanSquaredError(), MeanSquaredError()))
    assert torch.equal(found.maximum, expected.maximum) and torch.equal(found.minimum, expected.minimum)


def test_who_refines() -> None:
    assert OutputMeanSquaredError.refines_on_data and not MeanSquaredError.refines_on_data
    scale, zero_point = torch.tensor(0.3), torch.tensor(0.0)
    nothing = torch.zeros(1, 1, 1)
    kept = MeanSquaredError().refine(nothing, nothing, nothing, Grid(4, True), scale, zero_point)
    assert kept[0] is scale and kept[1] is zero_point


def test_a_scale_for_something_else_than_rows(generator: torch.Generator) -> None:
    weight, gram, target = problem(generator)
    with pytest.raises(ValueError, match="4 scales for 6 rows"):
        OutputMeanSquaredError().refine(weight, gram, target, Grid(4, True, channel_axis=1), torch.ones(4), torch.zeros(4))
