"""The gradient in closed form against autograd, for every kind of layer."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from halfstep.grid import Grid
from halfstep.rounding import LayerSamples, LinearOperator, RoundingProblem
from halfstep.rounding.layer_loss import AbstractLayerLoss, SampledPositions, TransformedSamples, WholeSamples, layer_loss

CHOSEN = torch.tensor([2, 0, 4])
Activation = Callable[[Tensor], Tensor]

LAYERS = {
    "linear": ((6, 4), LinearOperator(), (5, 4)),
    "tokens": ((6, 4), LinearOperator(), (5, 7, 4)),
    "conv1d": ((6, 4, 3), LinearOperator((2,), (1,), (1,)), (5, 4, 9)),
    "conv2d": ((6, 4, 3, 3), LinearOperator((1, 1), (1, 1), (1, 1)), (5, 4, 9, 8)),
    "grouped": ((6, 2, 3, 3), LinearOperator((2, 1), (1, 0), (1, 2), 2), (5, 4, 9, 8)),
    "depthwise": ((4, 1, 3, 3), LinearOperator((2, 2), (1, 1), (1, 1), 4), (5, 4, 9, 8)),
    "transposed": ((4, 3, 2, 3), LinearOperator((2, 2), (0, 1), (1, 1), 2, True, (1, 0)), (5, 4, 4, 5)),
    "conv3d": ((6, 4, 3, 2, 2), LinearOperator((2, 1, 1), (1, 0, 0), (1, 1, 1)), (5, 4, 5, 4, 3)),
    "same": ((6, 4, 2, 2), LinearOperator((1, 1), (0, 0), (1, 1), end_padding=(1, 1)), (5, 4, 5, 4)),
}
WINOGRAD = {
    f"{height}x{width}+{padding}": ((33, 32, 3, 3), LinearOperator((1, 1), (padding, padding), (1, 1)), (5, 32, height, width))
    for height, width, padding in [(8, 8, 1), (7, 5, 1), (6, 9, 0), (3, 3, 0), (4, 6, 2)]
}


def problem(
    kind: tuple[tuple[int, ...], LinearOperator, tuple[int, ...]], activation: Activation | None, generator: torch.Generator
) -> RoundingProblem:
    shape, operator, input_shape = kind

    def normal(size: tuple[int, ...]) -> Tensor:
        return torch.randn(size, generator=generator, dtype=torch.float64)

    weight, x = normal(shape) / 5, normal(input_shape)
    float_x = x + normal(input_shape) / 10
    bias = normal((shape[1] * operator.groups if operator.is_transposed else shape[0],))
    samples = LayerSamples(x, float_x, operator(float_x, weight, bias), activation)
    scale = torch.tensor(0.1, dtype=torch.float64)
    return RoundingProblem(weight, scale, torch.tensor(0.0), Grid(4, True), operator, bias=bias, samples=lambda: samples)


def both(task: RoundingProblem, loss: AbstractLayerLoss, num_draws: int = 1) -> tuple[Tensor, Tensor]:
    """The gradient at a weight off the float one: draws of it in closed form, and by autograd."""
    assert task.samples is not None
    samples = task.samples()
    activation = samples.activation or (lambda y: y)
    weight = (task.weight + 0.05 * torch.cos(torch.arange(task.weight.numel())).view(task.weight.shape)).requires_grad_()
    difference = activation(task.operator(samples.inputs[CHOSEN], weight, task.bias)) - activation(samples.outputs[CHOSEN])
    (expected,) = torch.autograd.grad(difference.square().sum(1 if task.operator.num_axes else -1).mean(), weight)
    laid_out = loss.laid_out(weight.detach())
    draws = [loss.as_weight(loss.gradient(laid_out, CHOSEN)) for _ in range(num_draws)]
    return torch.stack(draws), expected


@pytest.mark.parametrize("activation", [None, torch.relu, F.relu6])
@pytest.mark.parametrize("kind", [*LAYERS.values(), *WINOGRAD.values()], ids=[*LAYERS, *WINOGRAD])
def test_gradient_of_all_positions(
    kind: tuple[tuple[int, ...], LinearOperator, tuple[int, ...]], activation: Activation | None, generator: torch.Generator
) -> None:
    task = problem(kind, activation, generator)
    loss = layer_loss(task, generator, is_asymmetric=True, with_activation=True, num_positions=None)
    assert isinstance(loss, TransformedSamples if kind in WINOGRAD.values() else WholeSamples)
    assert torch.equal(loss.as_weight(loss.laid_out(task.weight)), task.weight)
    (found,), expected = both(task, loss)
    assert float((found - expected).abs().max()) <= 1e-12 * float(expected.abs().max())  # Winograd's constants lose three digits of 16


@pytest.mark.parametrize("name", ["tokens", "conv1d", "conv2d", "grouped", "depthwise", "transposed", "conv3d", "same"])
def test_sampled_positions_are_right_on_average(name: str, generator: torch.Generator) -> None:
    """The mean of n draws has 1 / sqrt(n) of the deviation of one: 6 of them, for the entry that varies most."""
    task = problem(LAYERS[name], torch.relu, generator)
    loss = layer_loss(task, generator, is_asymmetric=True, with_activation=True, num_positions=2)
    assert isinstance(loss, SampledPositions)
    assert torch.equal(loss.as_weight(loss.laid_out(task.weight)), task.weight)
    draws, expected = both(task, loss, num_draws := 150)
    bound = 6 * float(draws.std(0).max()) / num_draws**0.5
    assert float((draws.mean(0) - expected).abs().max()) <= bound < float(expected.abs().max())


def test_one_sampled_position_by_hand(generator: torch.Generator) -> None:
    """A 1x1 convolution on images of two places, of which one is drawn: the gradient is that of either place."""
    weight, x = torch.tensor([[[[2.0]]]]), torch.tensor([[[[1.0, 3.0]]]])
    samples = LayerSamples(x, x, torch.zeros(1, 1, 1, 2))
    operator = LinearOperator((1, 1), (0, 0), (1, 1))
    task = RoundingProblem(weight, torch.tensor(1.0), torch.tensor(0.0), Grid(4, True), operator, samples=lambda: samples)
    loss = layer_loss(task, generator, is_asymmetric=True, with_activation=True, num_positions=1)
    found = {float(loss.gradient(loss.laid_out(weight), torch.tensor([0]))) for _ in range(20)}
    assert found == {2 * 2 * 1 * 1, 2 * 2 * 3 * 3}  # 2 (w x) x


def test_symmetric_takes_the_float_inputs_and_activation_can_be_left_out(generator: torch.Generator) -> None:
    task = problem(LAYERS["conv2d"], torch.relu, generator)
    choices = [(False, True), (True, False), (False, False)]
    for is_asymmetric, with_activation in choices:
        loss = layer_loss(task, generator, is_asymmetric=is_asymmetric, with_activation=with_activation, num_positions=None)
        at_float = loss.gradient(loss.laid_out(task.weight), CHOSEN)
        assert (float(at_float.abs().max()) < 1e-12) is (not is_asymmetric)  # the float weight on the float inputs has no error
    found = layer_loss(task, generator, is_asymmetric=True, with_activation=False, num_positions=None)
    plain = problem(LAYERS["conv2d"], None, torch.Generator().manual_seed(0))
    assert torch.equal(plain.weight, task.weight)
    expected = layer_loss(plain, generator, is_asymmetric=True, with_activation=True, num_positions=None)
    for loss in (found, expected):
        loss.laid_out(task.weight)
    torch.testing.assert_close(*(loss.gradient(loss.laid_out(task.weight), CHOSEN) for loss in (found, expected)))


def test_a_problem_without_samples_is_refused(generator: torch.Generator) -> None:
    task = RoundingProblem(torch.ones(1, 1), torch.tensor(0.3), torch.tensor(0.0), Grid(4, True))
    with pytest.raises(ValueError, match="has none"):
        layer_loss(task, generator, is_asymmetric=True, with_activation=True, num_positions=None)
