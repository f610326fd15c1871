"""A positive number behind a layer becomes part of its weights; whatever else reads the layer, or the number, keeps it where it is."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.fx import GraphModule

import zoo
from halfstep.errors import GraphError
from halfstep.graph.capture import capture
from halfstep.graph.check import check
from halfstep.graph.edit import tensor_named
from halfstep.graph.names import operator_name
from halfstep.graph.run import run
from halfstep.steps import FoldFactors


class Behind(nn.Module):
    """A layer and a function behind it."""

    def __init__(self, layer: nn.Module, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.layer, self.function = layer, function
        self.register_buffer("stored", torch.tensor([0.25]))

    def forward(self, x: Tensor) -> Tensor:
        return self.function(self.layer(x))


class Heads(nn.Module):
    """Attention of two heads, as most networks write it; ``scale`` multiplies the scores."""

    def __init__(self, scale: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.q, self.k, self.v = nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 8)
        self.scale = scale

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (layer(x).view(x.shape[0], -1, 2, 4).transpose(1, 2) for layer in (self.q, self.k, self.v))
        return F.softmax(self.scale(q @ k.transpose(-2, -1)), -1) @ v


def factors(graph: GraphModule) -> int:
    return sum(operator_name(node) in ("mul", "div") for node in graph.graph.nodes)


def same(network: nn.Module, x: Tensor) -> GraphModule:
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    graph, step = capture(network, (x,)), FoldFactors()
    graph = step.apply(graph, zoo.context())
    check(graph)
    step.ensures(graph)
    assert zoo.relative(run(graph, (x,)), network(x)) <= 1e-6
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())
    return graph


@pytest.mark.parametrize("scale", [lambda s: s * 0.5, lambda s: 0.5 * s, lambda s: s / math.sqrt(4)], ids=["behind", "before", "divided"])
def test_the_scale_of_scores_is_part_of_the_queries(scale: Callable[[Tensor], Tensor]) -> None:
    network = Heads(scale)
    graph = same(network, torch.randn(4, 5, 8))
    assert factors(graph) == 0
    torch.testing.assert_close(tensor_named(graph, "q.weight"), 0.5 * network.q.weight)
    torch.testing.assert_close(tensor_named(graph, "q.bias"), 0.5 * network.q.bias)
    assert torch.equal(tensor_named(graph, "k.weight"), network.k.weight)


def test_fused_attention_leaves_no_factor() -> None:
    class Fused(Heads):
        def forward(self, x: Tensor) -> Tensor:
            q, k, v = (layer(x).view(x.shape[0], -1, 2, 4).transpose(1, 2) for layer in (self.q, self.k, self.v))
            return F.scaled_dot_product_attention(q, k, v)

    assert factors(same(Fused(lambda scores: scores), torch.randn(4, 5, 8))) == 0


@pytest.mark.parametrize(
    "layer",
    [
        nn.Conv2d(6, 4, 3, groups=2),
        nn.Conv2d(6, 4, 3, bias=False),
        nn.ConvTranspose2d(6, 4, 2, stride=2, groups=2),
        nn.ConvTranspose2d(6, 4, 2, stride=2),
    ],
    ids=["groups", "no bias", "transposed, groups", "transposed"],
)
def test_through_what_commutes_with_it(layer: nn.Module) -> None:
    network = Behind(layer, lambda x: 0.1 * F.avg_pool2d(F.relu(x), 2).flatten(1))
    graph = same(network, torch.randn(4, 6, 8, 8))
    assert factors(graph) == 0
    torch.testing.assert_close(tensor_named(graph, "layer.weight"), 0.1 * network.layer.weight)


def test_two_factors_in_a_row() -> None:
    graph = same(Behind(nn.Linear(4, 4), lambda x: 3 * (x * 0.5).relu()), torch.randn(4, 4))
    assert factors(graph) == 0


def test_a_stored_number() -> None:
    class Gained(Behind):
        def forward(self, x: Tensor) -> Tensor:
            return self.layer(x) * self.stored

    graph = same(Gained(nn.Linear(4, 3), torch.relu), torch.randn(4, 4))
    assert factors(graph) == 0 and not hasattr(graph, "stored")


@pytest.mark.parametrize(
    "function",
    [
        lambda x: -0.5 * x,
        lambda x: 0.0 * x,
        lambda x: (math.inf * x).clamp(-1, 1),
        lambda x: x * 0.5 + x,
        lambda x: 0.5 * F.sigmoid(x),
        lambda x: 0.5 * x.clamp(-1, 1),
        lambda x: torch.div(x, 0.3, rounding_mode="floor"),
        lambda x: 2 / x,
        lambda x: x * x,
        lambda x: x * torch.full((1, 1, 4), 0.5),
        lambda x: 0.5 * torch.cat([x, x], 1),
    ],
    ids=["negative", "zero", "infinite", "read twice", "curved", "clipped", "rounded", "reciprocal", "square", "another shape", "joined"],
)
def test_what_is_in_the_way(function: Callable[[Tensor], Tensor]) -> None:
    assert factors(same(Behind(nn.Linear(4, 4), function), torch.randn(4, 4))) == 1


def test_a_layer_that_is_used_twice_keeps_its_weights() -> None:
    class Twice(Behind):
        def forward(self, x: Tensor) -> Tensor:
            return self.layer(self.layer(x) * 0.5)

    network = Twice(nn.Linear(4, 4), torch.relu)
    graph = same(network, torch.randn(4, 4))
    assert factors(graph) == 1 and torch.equal(tensor_named(graph, "layer.weight"), network.layer.weight)


def test_a_factor_that_was_forgotten_is_an_error() -> None:
    graph = capture(Behind(nn.Linear(4, 4), lambda x: 0.5 * x), (torch.randn(4, 4),))
    with pytest.raises(GraphError, match="mul"):
        FoldFactors().ensures(graph)
