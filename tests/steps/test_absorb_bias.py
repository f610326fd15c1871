"""Absorption: by hand, exact where it claims to be, and nothing where it would not be."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.fx import GraphModule

import zoo
from halfstep.errors import RecipeError
from halfstep.graph.capture import capture
from halfstep.graph.check import check
from halfstep.graph.edit import attribute
from halfstep.graph.operators import weighted_layers
from halfstep.graph.run import run
from halfstep.steps import AbsorbBias, FoldBatchNorm, PlaceQuantizers


def folded(model: nn.Module, x: Tensor) -> GraphModule:
    return FoldBatchNorm().apply(capture(model.eval(), (x,)), zoo.context())


def absorb(graph: GraphModule, **options: bool) -> tuple[GraphModule, list[str]]:
    shared = zoo.context()
    graph = AbsorbBias(**options).apply(graph, shared)
    check(graph)
    return graph, shared.notes


def biases(graph: GraphModule) -> list[list[float]]:
    return [attribute(graph, layer.bias).tolist() for layer in weighted_layers(graph) if layer.bias is not None]


def with_norm(*behind: nn.Module, mean: float = 5.0, std: float = 1.0, size: int = 4) -> nn.Sequential:
    """A convolution, and a batch norm that gives its outputs this mean and deviation for inputs of a standard normal."""
    network = nn.Sequential(nn.Conv2d(3, size, 1, bias=False), nn.BatchNorm2d(size, eps=0), *behind)
    with torch.no_grad():
        network[1].running_var.copy_(network[0].weight.square().sum((1, 2, 3)))
        network[1].weight.fill_(std)
        network[1].bias.fill_(mean)
    return network.eval()


def test_by_hand() -> None:
    """Of beta = (5, 1), gamma = 1: c = (2, 0). b1 goes from (5, 1) to (3, 1), b2 from 0.5 by 2 * 10."""
    model = nn.Sequential(nn.Linear(2, 2, bias=False), nn.BatchNorm1d(2, eps=0), nn.ReLU(), nn.Linear(2, 1)).eval()
    with torch.no_grad():
        model[1].bias.copy_(torch.tensor([5.0, 1.0]))
        model[3].weight.copy_(torch.tensor([[10.0, 7.0]]))
        model[3].bias.fill_(0.5)
    graph, notes = absorb(folded(model, torch.randn(2, 2)))
    assert biases(graph) == [[3.0, 1.0], [20.5]]
    assert notes == ["Absorbed a part of the biases of 1 layers into the layers that read them."]
    assert [part.tolist() for part in graph.meta["batch_norms"]["0"]] == [[3.0, 1.0], [1.0, 1.0]]


BEHIND = {
    "convolution": [nn.ReLU(), nn.Conv2d(4, 5, 3)],
    "grouped": [nn.ReLU(), nn.Conv2d(4, 6, 3, groups=2)],
    "max pooling, padded": [nn.ReLU(), nn.MaxPool2d(3, 1, 1), nn.Conv2d(4, 5, 1, bias=False)],
    "average": [nn.ReLU(), nn.AvgPool2d(3, 2, 1, count_include_pad=False), nn.Conv2d(4, 5, 1)],
    "flatten": [nn.LeakyReLU(), nn.Flatten(), nn.Linear(4 * 36, 5)],
    "mean": [nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 5)],
    "no activation": [nn.Conv2d(4, 5, 2)],
}


@pytest.mark.parametrize("kind", BEHIND)
def test_exact_where_nothing_lies_below(kind: str) -> None:
    """Means of 20 deviations: no value of the network gets below beta - 3 gamma = 17."""
    model, x = with_norm(*BEHIND[kind], mean=20.0), torch.rand(4, 3, 6, 6)
    graph = folded(model, x)
    before = run(graph, (x,))
    graph, notes = absorb(graph)
    assert "of 1 layers" in notes[0]
    assert min(biases(graph)[0]) == pytest.approx(3.0, abs=1e-4)
    # Sums of numbers near 20 where the results are near 1 to 20: 2^-24 * 20 * sqrt(144), relative to them 1e-5.
    assert zoo.relative(run(graph, (x,)), before) <= 1e-4


INEXACT = {
    "padded": [nn.ReLU(), nn.Conv2d(4, 5, 3, padding=1)],
    "same": [nn.ReLU(), nn.Conv2d(4, 5, 2, padding="same")],
    "zero padding": [nn.ReLU(), nn.ZeroPad2d(1), nn.Conv2d(4, 5, 3)],
    "average": [nn.ReLU(), nn.AvgPool2d(3, 1, 1), nn.Conv2d(4, 5, 1)],
}
NEVER = {
    "transposed": [nn.ReLU(), nn.ConvTranspose2d(4, 5, 3, stride=2)],
    "clip": [nn.ReLU6(), nn.Conv2d(4, 5, 1)],
}


@pytest.mark.parametrize("kind", INEXACT)
def test_zeros_around_are_in_the_way_unless_accepted(kind: str) -> None:
    model, x = with_norm(*INEXACT[kind]), torch.randn(4, 3, 8, 8)
    graph = folded(model, x)
    before = biases(graph)
    _, notes = absorb(graph)
    assert biases(graph) == before and "of 0 layers" in notes[0]
    expected = run(graph, (x,))
    _, notes = absorb(graph, padded=True)
    assert biases(graph) != before and "of 1 layers" in notes[0]
    if kind != "average":  # whose zeros fall on the rows next to the border, here all but the inner 6 x 6
        found, inner = run(graph, (x,)), (..., slice(2, -2), slice(2, -2))
        # 0.13 % of the values lie below: by less than a deviation, of a mean of 5
        assert zoo.relative(found[inner], expected[inner]) <= 0.1
        assert zoo.relative(found, expected) > zoo.relative(found[inner], expected[inner])


@pytest.mark.parametrize("kind", NEVER)
def test_never_where_it_would_be_wrong_everywhere(kind: str) -> None:
    graph = folded(with_norm(*NEVER[kind]), torch.randn(4, 3, 6, 6))
    before = biases(graph)
    _, notes = absorb(graph, padded=True)
    assert biases(graph) == before and "of 0 layers" in notes[0]


def test_a_layer_without_a_bias_gets_one() -> None:
    graph = folded(with_norm(nn.ReLU(), nn.Conv2d(4, 5, 1, bias=False)), torch.randn(2, 3, 6, 6))
    graph, _ = absorb(graph)
    weight = attribute(graph, weighted_layers(graph)[1].weight)
    assert torch.allclose(torch.tensor(biases(graph)[1]), 2 * weight.sum((1, 2, 3)), atol=1e-6)


def test_without_batch_norms_nothing_is_known() -> None:
    graph = zoo.captured("ends_in_conv")
    _, notes = absorb(graph)
    assert notes == ["No bias was absorbed: no batch norm was folded, so that means and deviations of the outputs are unknown."]


def test_it_comes_before_the_quantizers() -> None:
    graph = PlaceQuantizers().apply(zoo.captured("bias_free"), zoo.context())
    with pytest.raises(RecipeError, match="'absorb_bias' rewrites the float network"):
        AbsorbBias().apply(graph, zoo.context())
