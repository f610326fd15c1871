"""Straight-through optimization: its step by autograd, its freedom to move by more than one code, its limits."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from halfstep.grid import Grid, quantize_affine
from halfstep.rounding import LayerSamples, Nearest, RoundingProblem, StraightThrough


def problem(activation: Any = torch.relu, scale: float = 0.3, shift: float = 0.2) -> RoundingProblem:
    generator = torch.Generator().manual_seed(3)
    mixing, weight = torch.randn(12, 12, generator=generator), torch.randn(8, 12, generator=generator) / 3
    float_inputs = torch.randn(64, 12, generator=generator) @ mixing + 0.5
    inputs = float_inputs + shift * torch.randn(64, 12, generator=generator)
    bias = torch.randn(8, generator=generator)
    samples = LayerSamples(inputs, float_inputs, float_inputs @ weight.t() + bias, activation)
    return RoundingProblem(weight, torch.tensor(scale), torch.tensor(0.0), Grid(3, True), bias=bias, samples=lambda: samples)


def solve(task: RoundingProblem, **options: Any) -> Tensor:
    quick = {"num_iterations": 200, "learning_rate": 0.02}
    return StraightThrough(**{**quick, **options}).round(task, torch.Generator().manual_seed(0)).codes


def test_is_adam_on_the_straight_through_gradient() -> None:
    """Ten steps on all samples at once, with autograd through `quantize_affine` and PyTorch's Adam."""
    task = problem(scale=0.1)  # some weights lie beyond the limits
    task = replace(task, weight=task.weight.double(), scale=task.scale.double())
    assert task.samples is not None and task.bias is not None
    given = task.samples()
    samples = LayerSamples(given.inputs.double(), given.float_inputs.double(), given.outputs.double(), given.activation)
    task = replace(task, samples=lambda: samples, bias=task.bias.double())
    latent = (task.weight / task.scale).requires_grad_()
    adam = torch.optim.Adam([latent], lr=0.2)
    for _ in range(10):
        rounded = quantize_affine(latent, torch.tensor(1.0), task.zero_point, task.grid).dequantize() * task.scale
        difference = torch.relu(samples.inputs @ rounded.t() + task.bias) - torch.relu(samples.outputs)
        adam.zero_grad()
        difference.square().sum(1).mean().backward()
        adam.step()
    expected = quantize_affine(latent.detach(), torch.tensor(1.0), task.zero_point, task.grid).codes
    found = solve(task, num_iterations=10, learning_rate=0.2, batch_size=64)
    assert torch.equal(found, expected)
    assert not torch.equal(found, Nearest().round(task, torch.Generator()).codes)


def test_beats_nearest_and_moves_by_more_than_one_code() -> None:
    task = problem(scale=0.1)
    assert task.samples is not None
    samples = task.samples()

    def error(codes: Tensor) -> float:
        return float((torch.relu(samples.inputs @ (codes * task.scale).t() + task.bias) - torch.relu(samples.outputs)).square().sum())

    found, nearest = solve(task, learning_rate=0.03), Nearest().round(task, torch.Generator()).codes
    assert error(found) < 0.7 * error(nearest)
    assert float((found - nearest).abs().max()) >= 2
    assert bool(((found >= -4) & (found <= 3)).all())


def test_zeros_that_must_stay_do() -> None:
    task = problem()
    keep = torch.rand(task.weight.shape, generator=torch.Generator().manual_seed(0)) < 0.5
    codes = solve(replace(task, weight=task.weight.masked_fill(keep, 0), keep=keep))
    assert bool((codes[keep] == 0).all()) and bool((codes[~keep] != 0).any())


@pytest.mark.parametrize(
    "options", [{"is_asymmetric": False}, {"with_activation": False}, {"batch_size": 8}, {"num_iterations": 3}], ids=str
)
def test_every_option_has_a_say(options: dict[str, Any]) -> None:
    task = problem(shift=1.0)
    assert not torch.equal(solve(task, **options), solve(task))


def test_no_samples() -> None:
    with pytest.raises(ValueError, match="reads samples"):
        solve(replace(problem(), samples=None))
