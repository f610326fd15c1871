"""Against enumeration, the other methods and the closed form of the scale; the same codes however rows are shared out."""

from __future__ import annotations

import threading
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from halfstep.errors import CalibrationError
from halfstep.grid import Grid, Quantized
from halfstep.rounding import GPTQ, CoordinateDescent, Lattice, LinearOperator, Moments, RoundingProblem
from halfstep.rounding.scale_refit import RefitOfGroups, refit_for


def moments(generator: torch.Generator, groups: int, size: int) -> Moments:
    """Inputs with a mean, and float inputs that differ from them a little."""
    inputs = torch.randn(groups, 6 * size, size, generator=generator, dtype=torch.float64)
    mixing = torch.eye(size, dtype=torch.float64) + torch.randn(groups, size, size, generator=generator, dtype=torch.float64) / 3
    inputs = inputs @ mixing + 0.5
    real = inputs + 0.1 * torch.randn(inputs.shape, generator=generator, dtype=torch.float64)
    count = inputs.shape[1]
    return Moments(inputs.mT @ inputs / count, real.mT @ inputs / count, inputs.mean(1), real.mean(1), count)


def problem(
    generator: torch.Generator,
    rows: int = 8,
    size: int = 30,
    bits: int = 2,
    channel_axis: int | None = 0,
    group_size: int | None = None,
) -> RoundingProblem:
    weight = torch.randn(rows, size, generator=generator)
    grid = Grid(bits, True, True, channel_axis, group_size=group_size)
    shape = grid.scale_shape(weight.shape)
    scale = torch.full(shape, 2.2 / 2 ** (bits - 1)) * (1 + 0.1 * torch.rand(shape, generator=generator))
    return RoundingProblem(weight, scale, torch.zeros(shape), grid, LinearOperator(), moments=moments(generator, 1, size))


def solved(task: RoundingProblem, seed: int = 0, **options: object) -> Quantized:
    return Lattice.from_options(options).round(task, torch.Generator().manual_seed(seed))  # type: ignore[attr-defined, no-any-return]


def error(task: RoundingProblem, found: Quantized) -> Tensor:
    return task.quadratic().error(task.operator.rows(found.dequantize()))[0]


@pytest.mark.parametrize("seed", range(10))
def test_most_effort_finds_the_optimum(seed: int) -> None:
    """2 bits, 6 entries: 4,096 choices a row."""
    task = problem(torch.Generator().manual_seed(seed), rows=4, size=6)
    every = torch.cartesian_prod(*[torch.arange(-2.0, 2.0)] * 6)
    quadratic = task.quadratic()
    found = error(task, solved(task, effort=5, refit_scale=False))
    for row, scale in enumerate(task.scale):
        missed = (every * scale).double() - quadratic.target[0, row]
        least = ((missed @ quadratic.gram[0]) * missed).sum(1).min()
        assert float(found[row]) == pytest.approx(float(least), rel=1e-9)


@pytest.mark.parametrize(("channel_axis", "group_size"), [(None, None), (0, None), (1, None), (0, 8)])
@pytest.mark.parametrize("bits", [2, 4])
def test_never_worse_than_the_other_methods(
    bits: int, channel_axis: int | None, group_size: int | None, generator: torch.Generator
) -> None:
    """Of each row with the scale held; of the layer with the scale refitted. float32 searches: 1e-5."""
    task = problem(generator, bits=bits, channel_axis=channel_axis, group_size=group_size)
    options = {"asymmetric": True, "centred": True, "damping": 0.01}
    others = [method.from_options(options).round(task, generator) for method in (GPTQ, CoordinateDescent)]
    others.append(solved(task, effort=0))
    for effort in range(1, 6):
        held, free = (error(task, solved(task, effort=effort, refit_scale=refit)) for refit in (False, True))
        for other in others:
            assert bool((held <= error(task, other) * (1 + 1e-5)).all())
            assert float(free.sum()) <= float(error(task, other).sum()) * (1 + 1e-5)


@pytest.mark.parametrize("channel_axis", [None, 0])
def test_no_other_scale_is_better(channel_axis: int | None, generator: torch.Generator) -> None:
    task = problem(generator, channel_axis=channel_axis)
    found = solved(task)
    assert found.scale.shape == task.scale.shape and not torch.equal(found.scale, task.scale)
    least = float(error(task, found).sum())
    for factor in (0.999, 1.001):
        assert float(error(task, replace(found, scale=found.scale * factor)).sum()) > least


@pytest.mark.parametrize("group_size", [8, 30])
def test_no_other_scale_of_a_group_is_better(group_size: int, generator: torch.Generator) -> None:
    """The error is a quadratic form in the scales of a row: at the refitted ones each slope is 0, up to what is not worth changing."""
    task = problem(generator, bits=3, group_size=group_size)
    codes = solved(task).codes
    vector = Lattice().vector(task)
    refit = refit_for(task)
    assert isinstance(refit, RefitOfGroups)
    _, scale = refit.refitted(task, vector, codes, task.scale)
    for _ in range(50):
        _, scale = refit.refitted(task, vector, codes, scale)
    found = Quantized(codes, scale, task.zero_point, task.grid)
    least = error(task, found)
    for group in range(scale.shape[1]):
        for factor in (0.99, 1.01):
            other = scale.clone()
            other[:, group] *= factor
            assert bool((error(task, replace(found, scale=other)) > least).all())


def test_a_single_group_is_refitted_as_a_row(generator: torch.Generator) -> None:
    grouped = problem(generator, bits=3, group_size=32)
    single = replace(grouped, grid=grouped.grid.per_channel(), scale=grouped.scale[:, 0], zero_point=grouped.zero_point[:, 0])
    one, other = solved(grouped), solved(single)
    assert torch.equal(one.codes, other.codes)
    torch.testing.assert_close(one.scale[:, 0], other.scale, rtol=1e-6, atol=0)  # sums in another order


def test_a_group_whose_codes_are_all_zero_keeps_its_scale(generator: torch.Generator) -> None:
    task = problem(generator, group_size=8)
    task = replace(task, weight=task.weight * (torch.arange(30) >= 8))
    found = solved(task, effort=1, asymmetric=False)
    assert bool((found.scale > 0).all()) and bool(torch.isfinite(found.scale).all())
    is_zero = (found.codes[:, :8] == 0).all(1)
    assert bool(is_zero.any())
    assert torch.equal(found.scale[is_zero, 0], task.scale[is_zero, 0])


def test_a_scale_of_each_input_channel_stays(generator: torch.Generator) -> None:
    task = problem(generator, channel_axis=1)
    assert torch.equal(solved(task).scale, task.scale)


def test_masked_weights_stay_zero_on_an_asymmetric_grid(generator: torch.Generator) -> None:
    task = problem(generator)
    keep = torch.rand(task.weight.shape, generator=generator) < 0.3
    task = replace(task, grid=Grid(3, False, False, 0), zero_point=torch.full((8,), 3.0), keep=keep)
    codes = solved(task).codes
    assert bool((codes[keep] == 3).all()) and int(codes.min()) >= 0 and int(codes.max()) <= 7
    assert int(codes.min()) < 3 < int(codes.max())


def test_an_input_that_is_always_zero_and_a_weight_that_is_all_zero(generator: torch.Generator) -> None:
    task = problem(generator)
    assert task.moments is not None
    live = (torch.arange(30) != 4).double()
    gram, cross = (part * live[:, None] * live for part in (task.moments.gram, task.moments.cross))
    weight = task.weight * (torch.arange(8) != 2)[:, None]
    task = replace(task, weight=weight, moments=replace(task.moments, gram=gram, cross=cross, mean=task.moments.mean * live))
    for damping in (0.0, 0.01):
        found = solved(task, damping=damping)
        assert bool(torch.isfinite(found.codes).all()) and bool((found.scale > 0).all())


def test_a_depthwise_layer(generator: torch.Generator) -> None:
    """64 groups of one row and 9 entries: each as if it were alone."""
    weight = torch.randn(64, 1, 3, 3, generator=generator)
    operator, known = LinearOperator((1, 1), (1, 1), (1, 1), groups=64), moments(generator, 64, 9)
    task = RoundingProblem(weight, torch.full((64,), 0.8), torch.zeros(64), Grid(3, True, True, 0), operator, moments=known)
    whole = solved(task, effort=5, refit_scale=False)
    one = Moments(*(part[7:8] for part in (known.gram, known.cross, known.mean, known.float_mean)), known.num_patches)
    alone = RoundingProblem(
        weight[7:8], torch.full((1,), 0.8), torch.zeros(1), task.grid, LinearOperator((1, 1), (1, 1), (1, 1)), moments=one, row_offset=7
    )
    assert torch.equal(solved(alone, effort=5, refit_scale=False).codes, whole.codes[7:8])


def shares(task: RoundingProblem, bounds: list[tuple[int, int]], **options: object) -> list[Quantized]:
    """What processes that each hold some of the rows find: a gather waits until every one has come to it."""
    barrier, slots = threading.Barrier(len(bounds)), [torch.empty(0)] * len(bounds)
    found: list[Quantized | None] = [None] * len(bounds)

    def gather(place: int, values: Tensor) -> Tensor:
        slots[place] = values
        barrier.wait()
        everything = torch.cat(slots)
        barrier.wait()
        return everything

    def work(place: int, first: int, last: int) -> None:
        per_row = {} if task.scale.ndim == 0 else {"scale": task.scale[first:last], "zero_point": task.zero_point[first:last]}
        part = replace(task, weight=task.weight[first:last], row_offset=first, gather=lambda values: gather(place, values), **per_row)
        found[place] = solved(part, **options)

    threads = [threading.Thread(target=work, args=(place, *bound)) for place, bound in enumerate(bounds)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert all(part is not None for part in found)
    return found  # type: ignore[return-value]


@pytest.mark.parametrize("channel_axis", [None, 0])
def test_rows_shared_out_give_the_same_codes(channel_axis: int | None, generator: torch.Generator) -> None:
    task = problem(generator, rows=13, size=80, channel_axis=channel_axis)
    whole = solved(task)
    parts = shares(task, [(0, 5), (5, 13)])
    assert torch.equal(torch.cat([part.codes for part in parts]), whole.codes)
    scales = [part.scale for part in parts]
    assert torch.equal(scales[0] if channel_axis is None else torch.cat(scales), whole.scale)


def test_the_same_seed_gives_the_same_codes_on_any_number_of_threads(generator: torch.Generator) -> None:
    task = problem(generator, size=120, bits=3)
    first = solved(task, seed=3)
    torch.set_num_threads(2)
    try:
        again = solved(task, seed=3)
    finally:
        torch.set_num_threads(1)
    assert torch.equal(first.codes, again.codes) and torch.equal(first.scale, again.scale)


def test_weights_on_the_grid_stay_with_the_inputs_they_had(generator: torch.Generator) -> None:
    task = problem(generator, bits=4)
    codes = torch.randint(-8, 8, task.weight.shape, generator=generator).float()
    task = replace(task, weight=codes * task.scale[:, None])
    found = solved(task, asymmetric=False)
    assert torch.equal(found.codes, codes) and torch.equal(found.scale, task.scale)


def test_moments_that_are_not_finite(generator: torch.Generator) -> None:
    task = problem(generator)
    assert task.moments is not None
    with pytest.raises(CalibrationError, match="not finite"):
        solved(replace(task, moments=replace(task.moments, gram=task.moments.gram * torch.inf)), asymmetric=False, centred=False)
