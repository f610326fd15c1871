"""Every registered rounding against one contract."""

from __future__ import annotations

import pytest
import torch

from halfstep.grid import Grid, quantize_affine
from halfstep.rounding import ROUNDINGS, AbstractRounding, RoundingProblem

pytestmark = pytest.mark.parametrize("name", list(ROUNDINGS))


def problem(grid: Grid, generator: torch.Generator) -> RoundingProblem:
    """A weight [6, 4, 3, 3] whose largest values lie beyond the grid; channels of different width."""
    weight = torch.randn(6, 4, 3, 3, generator=generator) * torch.tensor([0.01, 0.1, 1, 3, 10, 0])[:, None, None, None]
    shape = () if grid.channel_axis is None else (weight.shape[grid.channel_axis],)
    scale = (torch.rand(shape, generator=generator) + 0.5) * 3 / grid.num_levels
    zero_point = torch.zeros(shape) if grid.symmetric else torch.full(shape, float((grid.minimum + grid.maximum) // 2))
    return RoundingProblem(weight, scale, zero_point, grid)


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("channel_axis", [None, 0, 1])
@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize("bits", [2, 3, 4, 8])
def test_codes_are_integers_on_the_grid_next_to_the_weight(
    name: str, bits: int, signed: bool, symmetric: bool, channel_axis: int | None, generator: torch.Generator
) -> None:
    task = problem(Grid(bits, signed, symmetric, channel_axis), generator)
    before = task.weight.clone()
    quantized = ROUNDINGS.create(name).round(task, seeded(0))
    codes, grid = quantized.codes, task.grid
    assert codes.shape == task.weight.shape
    assert codes.dtype == task.weight.dtype
    assert torch.equal(codes, codes.round())
    assert grid.minimum <= codes.min() and codes.max() <= grid.maximum
    assert torch.equal(quantized.scale, task.scale) and torch.equal(quantized.zero_point, task.zero_point)
    assert quantized.grid == grid
    assert torch.equal(task.weight, before)
    # strictly less than a step from the real position, itself rounded at most twice at a size below 2^11: 2 * 2^-14
    position = task.weight.double() / grid.along(task.scale.double(), 4) + grid.along(task.zero_point.double(), 4)
    assert bool(((codes - position.clamp(grid.minimum, grid.maximum)).abs() < 1 + 2.0**-13).all())


def test_the_same_seed_gives_the_same_codes(name: str, generator: torch.Generator) -> None:
    task, method = problem(Grid(4, True, channel_axis=0), generator), ROUNDINGS.create(name)
    first = method.round(task, seeded(11)).codes
    torch.manual_seed(99)
    torch.rand(7)
    assert torch.equal(method.round(task, seeded(11)).codes, first)


def test_weights_on_the_grid_stay(name: str) -> None:
    for grid in (Grid(4, True), Grid(8, False, False)):
        codes = torch.arange(grid.minimum, grid.maximum + 1, dtype=torch.float32)
        scale, zero_point = torch.tensor(0.25), torch.tensor(0.0 if grid.symmetric else 77.0)
        task = RoundingProblem((codes - zero_point) * scale, scale, zero_point, grid)
        assert torch.equal(ROUNDINGS.create(name).round(task, seeded(0)).codes, codes)


def test_what_is_dequantized_is_rounded_to_the_same_codes(name: str, generator: torch.Generator) -> None:
    """The step `round` stores the dequantized weight; its quantizer must find the same codes in it."""
    for grid in (Grid(2, True), Grid(4, True, channel_axis=0), Grid(8, False, False, 0)):
        task = problem(grid, generator)
        quantized = ROUNDINGS.create(name).round(task, seeded(0))
        again = quantize_affine(quantized.dequantize(), task.scale, task.zero_point, grid)
        assert torch.equal(again.codes, quantized.codes)


def test_is_a_rounding(name: str) -> None:
    assert issubclass(ROUNDINGS[name], AbstractRounding)
    assert ROUNDINGS[name].name == name
