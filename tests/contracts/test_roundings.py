"""Every registered rounding against one contract."""

from __future__ import annotations

import dataclasses
from functools import partial

import pytest
import torch
from torch import Tensor

import zoo
from halfstep.grid import Grid, Quantized, quantize_affine
from halfstep.rounding import (
    ROUNDINGS,
    AbstractRounding,
    LayerSamples,
    LinearOperator,
    Moments,
    RoundingProblem,
    accepted,
    bias_shift,
    mixed,
)
from halfstep.rounding.acceptance import nearest

pytestmark = pytest.mark.parametrize("name", list(ROUNDINGS))


OPERATOR = LinearOperator((1, 1), (1, 1), (1, 1))


def problem(grid: Grid, generator: torch.Generator) -> RoundingProblem:
    """A weight whose largest values lie beyond the grid; channels of different width, and all a method may ask for.

    Of a convolution, [6, 4, 3, 3]; on a grid with groups of a linear layer, [6, 20].
    """
    weight = torch.randn(6, 4, 3, 3, generator=generator) * torch.tensor([0.01, 0.1, 1, 3, 10, 0])[:, None, None, None]
    weight = weight if grid.group_size is None else weight.flatten(1)[:, :20].contiguous()
    shape, operator = grid.scale_shape(weight.shape), OPERATOR if grid.group_size is None else LinearOperator()
    scale = (torch.rand(shape, generator=generator) + 0.5) * 3 / grid.num_levels
    zero_point = torch.zeros(shape) if grid.symmetric else torch.full(shape, float((grid.minimum + grid.maximum) // 2))
    return with_data(RoundingProblem(weight, scale, zero_point, grid, operator, bias=torch.zeros(6)), generator)


def with_data(task: RoundingProblem, generator: torch.Generator) -> RoundingProblem:
    """Inputs of which the quantized ones are a little off, and what follows from them."""
    operator, num_inputs = task.operator, task.weight.shape[1]
    exact = torch.rand(40, *((num_inputs, 6, 6) if operator.num_axes else (36, num_inputs)), generator=generator)
    quantized = exact + 0.02 * torch.randn(exact.shape, generator=generator)
    positions = torch.arange(36).expand(40, -1)
    x, y = (operator.patches(part, task.weight, positions).double() for part in (exact, quantized))
    count = x.shape[1]
    moments = Moments(y.transpose(1, 2) @ y / count, x.transpose(1, 2) @ y / count, y.mean(1), x.mean(1), count)
    samples = LayerSamples(quantized, exact, operator(exact, task.weight, task.bias), torch.relu)
    factor = torch.randn(task.weight.numel(), 20, generator=generator, dtype=torch.float64)
    return dataclasses.replace(task, moments=moments, samples=lambda: samples, curvature=lambda: factor @ factor.T)


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("channel_axis", [None, 0, 1])
@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize("bits", [2, 3, 4, 8])
def test_codes_are_integers_on_the_grid_next_to_the_weight(
    name: str, bits: int, signed: bool, symmetric: bool, channel_axis: int | None, generator: torch.Generator
) -> None:
    _check(name, problem(Grid(bits, signed, symmetric, channel_axis), generator))


@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("bits", [2, 3, 4, 8])
@pytest.mark.parametrize("group_size", [8, 32])
def test_codes_with_a_scale_for_each_group(name: str, bits: int, symmetric: bool, group_size: int, generator: torch.Generator) -> None:
    """Of 20 entries: groups of 8, 8 and 4, or a single one that is shorter than it might be."""
    task = problem(Grid(bits, True, symmetric, 0, group_size=group_size), generator)
    assert task.scale.shape == (6, -(-20 // group_size))
    _check(name, task)


def _check(name: str, task: RoundingProblem) -> None:
    before = task.weight.clone()
    method = zoo.quick_rounding(name)
    quantized = method.round(task, seeded(0))
    codes, grid = quantized.codes, task.grid
    assert codes.shape == task.weight.shape
    assert codes.dtype == task.weight.dtype
    assert torch.equal(codes, codes.round())
    assert grid.minimum <= codes.min() and codes.max() <= grid.maximum
    assert quantized.scale.shape == task.scale.shape and bool((quantized.scale > 0).all())
    assert torch.equal(quantized.zero_point, task.zero_point)
    assert quantized.grid == grid
    assert torch.equal(task.weight, before)
    if method.uses_moments or method.uses_samples or method.uses_curvature:
        return  # may go further than the two codes next to a weight, and may refit the scale
    assert torch.equal(quantized.scale, task.scale)
    # strictly less than a step from the real position, itself rounded at most twice at a size below 2^11: 2 * 2^-14
    shape = task.weight.shape
    position = task.weight.double() / grid.along(task.scale.double(), shape) + grid.along(task.zero_point.double(), shape)
    assert bool(((codes - position.clamp(grid.minimum, grid.maximum)).abs() < 1 + 2.0**-13).all())


def test_the_same_seed_gives_the_same_codes(name: str, generator: torch.Generator) -> None:
    task, method = problem(Grid(4, True, channel_axis=0), generator), zoo.quick_rounding(name)
    first = method.round(task, seeded(11)).codes
    torch.manual_seed(99)
    torch.rand(7)
    assert torch.equal(method.round(task, seeded(11)).codes, first)


def test_weights_on_the_grid_stay(name: str, generator: torch.Generator) -> None:
    """Where the layer before left nothing to make good for."""
    for grid in (Grid(4, True), Grid(8, False, False)):
        codes = torch.randint(grid.minimum, grid.maximum + 1, (5, 4, 3, 3), generator=generator).float()
        codes.view(-1)[:2] = torch.tensor([grid.minimum, grid.maximum])
        scale, zero_point = torch.tensor(0.25), torch.tensor(0.0 if grid.symmetric else 77.0)
        task = RoundingProblem((codes - zero_point) * scale, scale, zero_point, grid, OPERATOR, bias=torch.zeros(5))
        task = with_data(task, generator)
        assert task.moments is not None and task.samples is not None
        samples = dataclasses.replace(task.samples(), inputs=task.samples().float_inputs)
        moments = dataclasses.replace(task.moments, cross=task.moments.gram, float_mean=task.moments.mean)
        task = dataclasses.replace(task, moments=moments, samples=partial(_same, samples))
        assert torch.equal(zoo.quick_rounding(name).round(task, seeded(0)).codes, codes)


def _same(samples: LayerSamples) -> LayerSamples:
    return samples


def test_zeros_that_must_stay_stay(name: str, generator: torch.Generator) -> None:
    task = problem(Grid(3, True, channel_axis=0), generator)
    pruned = torch.rand(task.weight.shape, generator=generator) < 0.5
    task = dataclasses.replace(task, weight=torch.where(pruned, 0.0, task.weight), keep=pruned)
    assert bool((zoo.quick_rounding(name).round(task, seeded(0)).codes[pruned] == 0).all())


def test_what_is_dequantized_is_rounded_to_the_same_codes(name: str, generator: torch.Generator) -> None:
    """The step `round` stores the dequantized weight; its quantizer must find the same codes in it."""
    for grid in (Grid(2, True), Grid(4, True, channel_axis=0), Grid(8, False, False, 0), Grid(4, True, False, 0, group_size=8)):
        task = problem(grid, generator)
        quantized = zoo.quick_rounding(name).round(task, seeded(0))
        again = quantize_affine(quantized.dequantize(), quantized.scale, task.zero_point, grid)
        assert torch.equal(again.codes, quantized.codes)


def test_groups_that_share_a_scale_are_one_channel(name: str, generator: torch.Generator) -> None:
    """Equal scales in all groups of a row, and the same codes as with one scale for it, where the scale may not be refitted."""
    grid = Grid(3, True, channel_axis=0, group_size=8)
    task = dataclasses.replace(problem(grid, generator), is_scale_fixed=True)
    task = dataclasses.replace(task, scale=task.scale[:, :1].expand(-1, 3).contiguous())
    single = dataclasses.replace(
        task, grid=grid.per_channel(), scale=task.scale[:, 0].contiguous(), zero_point=task.zero_point[:, 0].clone()
    )
    found, expected = (zoo.quick_rounding(name).round(part, seeded(3)) for part in (task, single))
    assert torch.equal(found.codes, expected.codes)


def test_is_a_rounding(name: str) -> None:
    assert issubclass(ROUNDINGS[name], AbstractRounding)
    assert ROUNDINGS[name].name == name


def cancelling(num_samples: int, seed: int) -> tuple[RoundingProblem, Tensor, Tensor]:
    """Channel means 50 times the deviation, weights whose sum is nearly 0, two constant channels; and 4,000 other inputs, x and x̂."""
    made = seeded(seed)
    mixing = torch.randn(24, 24, generator=made) / 24**0.5
    means = 50 * (1 + torch.rand(24, generator=made))
    drawn = torch.randn(num_samples + 4000, 24, generator=made) @ mixing
    drawn[:, :2] = 0
    exact = drawn + means
    quantized = (exact * 2).round() / 2
    weight = torch.randn(16, 24, generator=made)
    weight -= weight.mean(1, keepdim=True)
    moments = nested_moments(exact[:num_samples], quantized[:num_samples])
    scale = weight.abs().amax(1) / 7
    task = RoundingProblem(weight, scale, torch.zeros(16), Grid(4, True, True, 0), bias=torch.zeros(16), moments=moments)
    return task, exact[num_samples:].double(), quantized[num_samples:].double()


def nested_moments(x: Tensor, y: Tensor) -> Moments:
    count = len(x)
    gram, cross = (part.mT @ y / count for part in (y, x))
    half = nested_moments(x[::2], y[::2]) if count > 1 else None
    return Moments(*(part.double()[None] for part in (gram, cross, y.mean(0), x.mean(0))), count, half)


@pytest.mark.parametrize("num_samples", [1, 64, 1000])
def test_no_worse_than_nearest_with_a_corrected_bias_on_other_samples(name: str, num_samples: int) -> None:
    """Once it is accepted; with 24 entries and 64 samples a share of 24/64 of the error is luck, summed over 16 rows a few percent."""
    method = zoo.quick_rounding(name)
    if not method.uses_moments:
        pytest.skip("knows nothing of the inputs")
    for seed in range(3):
        task, x, y = cancelling(num_samples, seed)
        found = method.round(task, seeded(0))
        is_kept, is_moved = accepted(task, found, lambda part: method.round(part, seeded(0)), method.frees_bias)
        taken = mixed(task, found, is_kept)
        errors = [output_error(task, codes, shift, x, y) for codes, shift in (
            (taken, bias_shift(task, taken) * is_moved), (nearest(task), bias_shift(task, nearest(task))))]  # fmt: skip
        assert errors[0] <= 1.01 * errors[1], (seed, errors[0] / errors[1], float(is_kept.double().mean()))


def output_error(task: RoundingProblem, quantized: Quantized, shift: Tensor, x: Tensor, y: Tensor) -> float:
    missed = x @ task.weight.double().T - y @ quantized.dequantize().double().T - shift.flatten()
    return float(missed.square().sum(1).mean())
