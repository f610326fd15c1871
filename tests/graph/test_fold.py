"""What depends on no input is stored; everything else, and what must not be stored, stays."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.fx import GraphModule

import halfstep as hs
import zoo
from halfstep.graph.capture import capture
from halfstep.graph.edit import named_state, tensor_named
from halfstep.graph.fold import _MAX_GROWTH
from halfstep.graph.operators import weighted_layers
from halfstep.graph.run import run


def operators(graph: GraphModule) -> list[str]:
    return [str(node.target) for node in graph.graph.nodes if node.op == "call_function"]


def same(network: nn.Module, x: Tensor) -> GraphModule:
    graph = capture(network, (x,))
    assert zoo.relative(run(graph, (x,)), network(x)) <= 1e-6
    return graph


class Standardized(nn.Conv2d):
    """A convolution with standardized weights."""

    def forward(self, x: Tensor) -> Tensor:
        weight = F.batch_norm(self.weight.reshape(1, len(self.weight), -1), None, None, training=True).reshape_as(self.weight)
        return F.conv2d(x, weight, self.bias)


class JoinedBias(nn.Module):
    """Bias of queries, none of keys, bias of values: as BEiT has it."""

    def __init__(self) -> None:
        super().__init__()
        self.weight, self.q = nn.Parameter(torch.randn(9, 4)), nn.Parameter(torch.randn(3))
        self.register_buffer("k", torch.zeros(3))
        self.v = nn.Parameter(torch.randn(3))

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight, torch.cat([self.q, self.k, self.v]))


def test_a_standardized_weight_is_a_stored_one_under_its_own_name() -> None:
    graph = same(nn.Sequential(Standardized(3, 5, 3)), torch.randn(4, 3, 8, 8))
    assert operators(graph) == ["aten.conv2d.default"]
    (layer,) = weighted_layers(graph)
    assert layer.weight.op == "get_attr" and layer.weight.meta["name"] == "0.weight"
    assert isinstance(tensor_named(graph, "0.weight"), nn.Parameter)


def test_a_joined_bias_is_quantized_as_a_bias() -> None:
    network, x = JoinedBias(), torch.randn(8, 4)
    assert operators(same(network, x)) == ["aten.linear.default"]
    result = hs.quantize(network, x)
    assert "k" not in named_state(result.model)
    assert zoo.relative(run(result.model, (x,)), network(x)) <= 0.05


def test_nothing_is_left_that_nothing_reads() -> None:
    assert set(named_state(same(JoinedBias(), torch.randn(4, 4)))) == {"weight", "q"}


class Twice(nn.Module):
    """One table that is read as it is and through two functions."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.randn(4))

    def forward(self, x: Tensor) -> Tensor:
        return (x + self.table) * self.table.sin() + self.table.cos()


def test_a_tensor_that_is_read_elsewhere_keeps_its_name() -> None:
    network = Twice()
    graph = same(network, torch.randn(4, 4))
    assert torch.equal(tensor_named(graph, "table"), network.table)
    assert not {"aten.sin.default", "aten.cos.default"} & set(operators(graph))
    assert len(list(graph.parameters())) == 3


class Positions(nn.Module):
    """Sines of positions: made of no parameter at all."""

    def forward(self, x: Tensor) -> Tensor:
        places = torch.arange(x.shape[1]).float()
        return x + torch.stack([places.sin(), places.cos()]).sum(0)


def test_what_is_made_of_nothing_is_a_buffer() -> None:
    graph = same(nn.Sequential(Positions()), torch.randn(4, 6))
    assert operators(graph) == ["aten.add.Tensor"]
    assert not list(graph.parameters()) and len(list(graph.buffers())) == 1


class Large(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x + torch.ones(_MAX_GROWTH + 1, 2)[: x.shape[1], 0]


class Drawn(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x + 0 * torch.rand(4)


@pytest.mark.parametrize(("network", "kept"), [(Large(), "ones"), (Drawn(), "rand")])
def test_what_would_be_large_or_differs_from_call_to_call_is_computed(network: nn.Module, kept: str) -> None:
    assert any(kept in name for name in operators(capture(network, (torch.randn(2, 4),))))


def test_a_mask_is_finite() -> None:
    class Masked(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return (x + torch.full((4, 4), -torch.inf).triu(1)).softmax(-1)

    graph = same(Masked(), torch.randn(2, 4, 4))
    (mask,) = graph.buffers()
    assert bool(torch.isfinite(mask).all())


def test_the_graph_still_trains() -> None:
    graph = same(JoinedBias(), torch.randn(4, 4))
    graph(torch.randn(2, 4)).sum().backward()
    assert all(parameter.grad is not None for parameter in graph.parameters())


class WindowMask(nn.Module):
    """A mask written into slices of zeros that are made like the input: as torchvision's Swin has it."""

    def forward(self, x: Tensor) -> Tensor:
        mask = x.new_zeros((4, 4))
        for number, (a, b) in enumerate([(0, 2), (2, 3), (3, 4)]):
            mask[a:b, :2] = number
        return x + (mask.unsqueeze(0) - mask.unsqueeze(1)).ne(0).float().sum(0) + torch.ones_like(x[0])


def test_what_depends_on_the_shape_of_a_sample_alone_is_stored() -> None:
    assert operators(same(WindowMask(), torch.randn(3, 4, 4))) == ["aten.add.Tensor"] * 2


def test_what_depends_on_the_size_of_the_batch_stays() -> None:
    class Like(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x + torch.full_like(x, 0.5)

    assert operators(same(Like(), torch.randn(3, 4))) == ["aten.full_like.default", "aten.add.Tensor"]
