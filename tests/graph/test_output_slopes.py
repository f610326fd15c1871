"""Slopes of the outputs against Jacobians written out."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from halfstep.errors import CalibrationError
from halfstep.graph.capture import capture
from halfstep.graph.operators import weighted_layers
from halfstep.graph.output_slopes import channel_moments, output_slopes


def network() -> nn.Module:
    torch.manual_seed(3)
    return nn.Sequential(nn.Conv2d(2, 3, 3), nn.ReLU(), nn.Flatten(), nn.Linear(3 * 4, 1)).eval()


def jacobians(model: nn.Module, x: Tensor) -> tuple[Tensor, Tensor]:
    """(of the ReLU's output, summed up over its places [3]; of the weights of the convolution [3, 2]), of one output value."""
    weight, bias = (p.detach() for p in model[0].parameters())  # type: ignore[index]
    tensors, weights = torch.zeros(3, dtype=torch.float64), torch.zeros(3, 2, dtype=torch.float64)
    for sample in x:
        own = weight.clone().requires_grad_()
        middle = torch.relu(nn.functional.conv2d(sample[None], own, bias))
        slopes = torch.autograd.grad(model[3](middle.flatten(1)).sum(), [middle, own])  # type: ignore[index]
        tensors += slopes[0].double().square().sum((0, 2, 3))
        weights += slopes[1].double().square().sum((2, 3))
    return tensors, weights


def test_of_one_output_they_are_exact_sample_by_sample(generator: torch.Generator) -> None:
    """With one output value and one sample a pass, the sign does not matter."""
    model, x = network(), torch.randn(3, 2, 4, 4, generator=generator)
    graph = capture(model, (x,))
    relu = next(node for node in graph.graph.nodes if node.meta["name"] == "1")
    found = output_slopes(graph, {relu: 1}, weighted_layers(graph), [(sample[None],) for sample in x], generator)
    assert found is not None
    tensors, weights = jacobians(model, x)
    torch.testing.assert_close(found.tensors[relu], tensors, rtol=1e-5, atol=0)
    torch.testing.assert_close(found.weights[weighted_layers(graph)[0].node][0], weights, rtol=1e-5, atol=0)


def test_samples_of_one_pass_are_kept_apart(generator: torch.Generator) -> None:
    """In the mean over many draws of signs: 400 draws of a square leave at most 1.4 / 20 = 7 % of a standard error; four of them."""
    model, x = network(), torch.randn(4, 2, 4, 4, generator=generator)
    graph = capture(model, (x,))
    layers = weighted_layers(graph)
    found = output_slopes(graph, {}, layers, [(x,)] * 400, generator)
    assert found is not None
    torch.testing.assert_close(found.weights[layers[0].node][0] / 400, jacobians(model, x)[1], rtol=0.28, atol=0)


def test_products_of_slopes_between_channels(generator: torch.Generator) -> None:
    """Of a linear network with one output: g is the same at every sample, and every row is a value."""
    torch.manual_seed(3)
    model, x = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 1)).eval(), torch.randn(5, 2, generator=generator)
    graph = capture(model, (x,))
    layer = weighted_layers(graph)[0]
    found = channel_moments(graph, {layer.node: 1}, [(x,)], 1, generator)[layer.node]
    g = model[1].weight.detach().double()[0]
    torch.testing.assert_close(found.slopes, 5 * torch.outer(g, g), rtol=1e-5, atol=1e-8)
    with torch.no_grad():
        torch.testing.assert_close(found.rows.sort(0).values, model[0](x).sort(0).values)


def test_rows_are_drawn_and_their_diagonal_is_h(generator: torch.Generator) -> None:
    model, x = network(), torch.randn(3, 2, 4, 4, generator=generator)
    graph = capture(model, (x,))
    relu = next(node for node in graph.graph.nodes if node.meta["name"] == "1")
    found = channel_moments(graph, {relu: 1}, [(sample[None],) for sample in x], 2, generator)[relu]
    assert found.rows.shape == (3 * 2, 3) and bool((found.rows >= 0).all())
    torch.testing.assert_close(found.slopes.diagonal(), jacobians(model, x)[0], rtol=1e-5, atol=0)


def test_samples_that_fill_a_batch_up_do_not_count(generator: torch.Generator) -> None:
    model, x = network(), torch.randn(3, 2, 4, 4, generator=generator)
    graph = capture(model, (x,))
    relu = next(node for node in graph.graph.nodes if node.meta["name"] == "1")
    graph.meta["batch_size"] = 2
    found = channel_moments(graph, {relu: 1}, [(x,)], 4, generator)[relu]
    assert found.rows.shape == (3 * 4, 3)


def test_broken_values_are_named(generator: torch.Generator) -> None:
    graph = capture(network(), (torch.zeros(2, 2, 4, 4),))
    relu = next(node for node in graph.graph.nodes if node.meta["name"] == "1")
    with pytest.raises(CalibrationError, match="'1' is NaN or infinite"):
        channel_moments(graph, {relu: 1}, [(torch.full((2, 2, 4, 4), torch.nan),)], 4, generator)


def test_a_network_without_slopes_has_none(generator: torch.Generator) -> None:
    class Label(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(3, 4)

        def forward(self, x: Tensor) -> Tensor:
            return self.layer(x).argmax(1)

    graph = capture(Label().eval(), (torch.zeros(2, 3),))
    assert output_slopes(graph, {}, weighted_layers(graph), [(torch.zeros(2, 3),)], generator) is None
    assert channel_moments(graph, {weighted_layers(graph)[0].node: 1}, [(torch.zeros(2, 3),)], 1, generator) == {}
