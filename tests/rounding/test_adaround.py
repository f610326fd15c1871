"""AdaRound on layers small enough to try every rounding, its options, and its early end."""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

import halfstep.rounding.adaround as module
from halfstep.errors import RecipeError
from halfstep.grid import Grid
from halfstep.rounding import ROUNDINGS, AdaRound, LayerSamples, LinearOperator, Nearest, RoundingProblem
from halfstep.rounding.relaxation import Relaxation

QUICK: dict[str, Any] = {"num_iterations": 200, "learning_rate": 0.05}
INT3 = Grid(3, True)


def problem(
    grid: Grid = INT3, num_rows: int = 6, num_columns: int = 10, scale: float | Tensor = 0.3, activation: Any = None
) -> RoundingProblem:
    """A linear layer whose inputs are correlated and drift behind the quantized layers."""
    generator = torch.Generator().manual_seed(7)
    mixing = torch.eye(num_columns) + 0.2 * torch.randn(num_columns, num_columns, generator=generator)
    weight = torch.randn(num_rows, num_columns, generator=generator) / 3
    float_inputs = torch.randn(256, num_columns, generator=generator) @ mixing + 0.5
    inputs = float_inputs + 0.05 * torch.randn(256, num_columns, generator=generator)
    bias = torch.randn(num_rows, generator=generator)
    samples = LayerSamples(inputs, float_inputs, float_inputs @ weight.t() + bias, activation)
    scale = torch.as_tensor(scale)
    return RoundingProblem(weight, scale, torch.zeros_like(scale), grid, bias=bias, samples=lambda: samples)


def solve(task: RoundingProblem, seed: int = 0, **options: Any) -> Tensor:
    return AdaRound(**{**QUICK, **options}).round(task, torch.Generator().manual_seed(seed)).codes


def error(task: RoundingProblem, codes: Tensor) -> Tensor:
    """Of each row, the loss of (25) on all samples."""
    assert task.samples is not None
    samples = task.samples()
    activation = samples.activation or (lambda y: y)
    outputs = samples.inputs @ ((codes - task.zero_point) * task.step()).t() + task.bias
    return (activation(outputs) - activation(samples.outputs)).square().mean(0)


def best_error(task: RoundingProblem) -> Tensor:
    """Of each row, the least loss of all roundings up or down."""
    assert task.samples is not None and task.bias is not None
    samples, (low, high) = task.samples(), task.limits()
    activation = samples.activation or (lambda y: y)
    choices = torch.tensor(list(itertools.product((0.0, 1.0), repeat=task.weight.shape[1])))
    found = []
    for row, below in enumerate(torch.floor(task.position())):
        candidates = (below + choices).clamp(low, high) * task.scale  # [2^d, d]
        outputs = activation(samples.inputs @ candidates.t() + task.bias[row])
        found.append((outputs - activation(samples.outputs[:, row, None])).square().mean(0).min())
    return torch.stack(found)


@pytest.mark.parametrize("activation", [None, torch.relu])
@pytest.mark.parametrize("num_positions", [None, 1])
def test_near_the_best_of_all_roundings(activation: Any, num_positions: int | None) -> None:
    """Of 1024 roundings a row, one at most 1.3 times the best; nearest is beyond 1.5 times the best."""
    task = problem(activation=activation)
    best, found = best_error(task).sum(), error(task, solve(task, num_positions=num_positions, regularization=0.2)).sum()
    nearest = error(task, Nearest().round(task, torch.Generator()).codes).sum()
    assert float(found) <= 1.3 * float(best)
    assert float(nearest) > 1.5 * float(best)


def test_starts_at_the_float_weight() -> None:
    """h(V) = w/s - floor(w/s): the soft weight is the weight wherever there is a choice."""
    task = problem(Grid(8, True, channel_axis=0), scale=torch.linspace(0.01, 0.05, 6))
    for options in ({}, {"relaxation": "sigmoid"}, {"relaxation": "temperature", "temperature_start": 3.0}):
        below, V = AdaRound(**options).start(task)  # type: ignore[arg-type]
        zeta_gamma = () if not options else (1.0, 0.0)
        h, _ = Relaxation(*zeta_gamma).soft(V, options.get("temperature_start", 1.0))  # type: ignore[arg-type]
        torch.testing.assert_close((below + h) * task.step(), task.weight, rtol=0, atol=1e-6)  # some roundings of numbers below 2


@pytest.mark.parametrize("grid", [Grid(2, True), Grid(3, False, False), Grid(4, True, channel_axis=0), Grid(8, False, False, 1)])
def test_a_neighbour_of_each_weight_within_the_limits(grid: Grid) -> None:
    shape = {None: (), 0: (6,), 1: (10,)}[grid.channel_axis]
    task = problem(grid, scale=torch.full(shape, 0.2 if grid.bits < 8 else 0.01))
    keep = torch.zeros(6, 10, dtype=torch.bool)
    keep[:, 3] = True
    task = replace(task, weight=task.weight.masked_fill(keep, 0), keep=keep, zero_point=torch.full(shape, float(not grid.symmetric)))
    codes = solve(task, num_iterations=20)
    low, high = task.limits()
    integers = codes - task.grid.along(task.zero_point, codes.shape)
    assert bool(((integers >= low) & (integers <= high)).all())
    assert bool((integers[:, 3] == 0).all())
    inside = torch.minimum(torch.maximum(task.position(), low), high)
    assert bool(((integers - inside).abs() < 1).all())


def test_a_weight_on_the_grid_stays() -> None:
    """And a layer of such weights needs no samples at all."""
    codes = torch.arange(-4.0, 4.0).view(2, 4)
    task = RoundingProblem(codes * 0.25, torch.tensor(0.25), torch.tensor(0.0), Grid(3, True))
    assert torch.equal(AdaRound().round(task, torch.Generator()).codes, codes)


def test_no_samples() -> None:
    task = replace(problem(), samples=None)
    with pytest.raises(ValueError, match="reads samples"):
        AdaRound().round(task, torch.Generator())


def test_regularization_drives_every_choice_to_an_end() -> None:
    """Without it some h stay in between; with it none does."""
    task = problem()

    def undecided(**options: Any) -> int:
        method = AdaRound(**{**QUICK, **options})
        below, V = method.start(task)
        h, _ = method._relaxation().soft(method._minimize(task, below, V, torch.Generator().manual_seed(0)))
        return int(((h > 0.02) & (h < 0.98)).sum())

    assert undecided(regularization=0.0) > 3
    assert undecided(regularization=2.0) == 0


def test_the_early_end_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    task, shares = problem(), []
    watched = replace(task, progress=shares.append)
    options = {"num_iterations": 1000, "regularization": 2.0, "warm_up": 0.05, "beta_start": 3.0}
    early = solve(watched, **options)
    num_looks = len(shares)
    monkeypatch.setattr(module, "_is_decided", lambda *_: False)
    assert torch.equal(solve(watched, **options), early)
    assert len(shares) - num_looks == 10 > num_looks  # every hundredth iteration


def test_the_same_seed_gives_the_same_codes() -> None:
    task = problem(num_rows=30)
    assert torch.equal(solve(task, 3), solve(task, 3))
    sampled = [solve(conv_problem(), seed, num_positions=3, num_iterations=40) for seed in (1, 1, 2)]
    assert torch.equal(sampled[0], sampled[1])
    assert not torch.equal(sampled[0], sampled[2])


def conv_problem() -> RoundingProblem:
    generator = torch.Generator().manual_seed(1)
    weight, x = torch.randn(8, 4, 3, 3, generator=generator), torch.randn(40, 4, 6, 6, generator=generator)
    x = x + 0.5 * x.roll(1, 1) + 0.5 * x.roll(1, 2)
    operator = LinearOperator((1, 1), (1, 1), (1, 1))
    samples = LayerSamples(x, x, operator(x, weight), torch.relu)
    return RoundingProblem(weight, torch.tensor(0.7), torch.tensor(0.0), Grid(3, True), operator, samples=lambda: samples)


@pytest.mark.parametrize("num_positions", [None, 6])
def test_a_convolution(num_positions: int | None) -> None:
    """The output's error is at most 0.8 of nearest's."""
    task = conv_problem()
    assert task.samples is not None
    samples = task.samples()

    def output_error(codes: Tensor) -> float:
        return float((torch.relu(task.operator(samples.inputs, codes * task.scale)) - torch.relu(samples.outputs)).square().sum())

    found = solve(task, num_positions=num_positions, regularization=0.1)
    assert output_error(found) < 0.8 * output_error(Nearest().round(task, torch.Generator()).codes)


@pytest.mark.parametrize(
    "options",
    [
        {"is_asymmetric": False},
        {"with_activation": False},
        {"batch_size": 8},
        {"learning_rate": 0.01},
        {"regularization": 0.1},
        {"num_iterations": 20},
        {"relaxation": "sigmoid"},
        {"relaxation": "temperature"},
        {"relaxation": "temperature", "temperature_end": 0.5},
        {"schedule": "linear", "regularization": 0.2},
        {"zeta": 1.5, "gamma": -0.5},
        {"warm_up": 0.9, "regularization": 0.2},
        {"beta_start": 4.0, "beta_end": 1.5, "regularization": 0.2},
    ],
    ids=str,
)
def test_every_option_has_a_say_and_beats_nearest(options: dict[str, Any]) -> None:
    task = problem(num_rows=60, activation=torch.relu)
    found, default = solve(task, **options), solve(task)
    assert not torch.equal(found, default)
    nearest = error(task, Nearest().round(task, torch.Generator()).codes).sum()
    assert float(error(task, found).sum()) < float(nearest)


def test_defaults_are_those_of_the_paper() -> None:
    paper = {
        "num_iterations": 10_000,
        "batch_size": 32,
        "learning_rate": None,
        "regularization": 0.01,
        "warm_up": 0.2,
        "num_positions": None,
    }
    annealing = {"beta_start": 20.0, "beta_end": 2.0, "schedule": "cosine", "relaxation": "rectified_sigmoid", "zeta": 1.1, "gamma": -0.1}
    assert AdaRound() == ROUNDINGS.create({"adaround": {**paper, **annealing, "is_asymmetric": True, "with_activation": True}})
    assert AdaRound().rate == 1e-3
    with pytest.raises(RecipeError, match="relaxation"):
        ROUNDINGS.create({"adaround": {"relaxation": "hopfield"}})


@pytest.mark.parametrize(("num_iterations", "rate"), [(20_000, 1e-3), (10_000, 1e-3), (1_000, 0.01), (20, 0.05)])
def test_fewer_iterations_take_larger_steps(num_iterations: int, rate: float) -> None:
    assert AdaRound(num_iterations=num_iterations).rate == pytest.approx(rate)
    assert AdaRound(num_iterations=num_iterations, learning_rate=0.3).rate == 0.3
