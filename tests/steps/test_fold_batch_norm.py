"""Folding keeps what the network computes, for every kind of layer, and leaves and names what cannot be folded."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.fx import GraphModule

import zoo
from halfstep.errors import GraphError
from halfstep.graph.capture import capture
from halfstep.graph.check import check
from halfstep.graph.run import run
from halfstep.steps import FoldBatchNorm
from halfstep.steps.fold_batch_norm import batch_norms

# Folding is exact in real numbers and computed in float64; weights rounded to float32 move each product by 2^-24, and a layer here sums
# at most some 10^2 of them, with factors of batch norms up to 2: 2 * sqrt(100) * 6e-8 ~ 1e-6 a layer, three layers.
TOLERANCE = 1e-5


def fold(graph: GraphModule, **options: tuple[str, ...]) -> tuple[GraphModule, list[str]]:
    shared, step = zoo.context(), FoldBatchNorm(**options)
    graph = step.apply(graph, shared)
    check(graph)
    step.ensures(graph)
    return graph, shared.notes


@pytest.mark.parametrize(
    "name", ["conv_bn_relu", "residual", "in_place", "slice_assignment", "depthwise", "transposed", "linear_bn", "conv1d", "conv3d"]
)
def test_everything_is_folded_and_nothing_changes(name: str) -> None:
    graph = zoo.captured(name)
    inputs = zoo.ZOO[name].inputs(seed=5)
    before = run(graph, inputs)
    assert batch_norms(graph)
    folded, notes = fold(graph)
    assert not batch_norms(folded) and notes == []
    assert not [key for key in folded.state_dict() if "running" in key]
    assert zoo.relative(run(folded, inputs), before) <= TOLERANCE


LAYERS = {
    "grouped": (nn.Conv2d(4, 6, 3, groups=2), nn.BatchNorm2d(6), (4, 6, 6)),
    "depthwise": (nn.Conv2d(4, 8, 3, groups=4, bias=False), nn.BatchNorm2d(8), (4, 6, 6)),
    "same": (nn.Conv2d(4, 6, 3, padding="same", bias=False), nn.BatchNorm2d(6), (4, 6, 6)),
    "transposed": (nn.ConvTranspose2d(4, 6, 3, stride=2), nn.BatchNorm2d(6), (4, 6, 6)),
    "transposed, groups": (nn.ConvTranspose2d(4, 6, 3, groups=2, bias=False), nn.BatchNorm2d(6), (4, 6, 6)),
    "transposed, one channel a group": (nn.ConvTranspose2d(4, 4, 2, stride=2, groups=4), nn.BatchNorm2d(4), (4, 6, 6)),
    "transposed 1d": (nn.ConvTranspose1d(4, 6, 3, groups=2), nn.BatchNorm1d(6), (4, 6)),
    "transposed 3d": (nn.ConvTranspose3d(2, 4, 2, bias=False), nn.BatchNorm3d(4), (2, 3, 3, 3)),
    "linear": (nn.Linear(6, 5), nn.BatchNorm1d(5), (6,)),
    "without affine": (nn.Conv2d(4, 6, 3), nn.BatchNorm2d(6, affine=False), (4, 6, 6)),
    "small variance": (nn.Conv2d(4, 6, 3), nn.BatchNorm2d(6, eps=1e-3), (4, 6, 6)),
}


@pytest.mark.parametrize("kind", LAYERS)
def test_every_kind_of_layer(kind: str) -> None:
    layer, norm, shape = LAYERS[kind]
    zoo.unsettle(norm)
    if kind == "small variance":
        norm.running_var.fill_(1e-6)
    model, x = nn.Sequential(layer, norm).eval(), torch.randn(3, *shape)
    graph, notes = fold(capture(model, (x,)))
    assert not batch_norms(graph) and not notes
    with torch.no_grad():
        assert zoo.relative(graph(x), model(x)) <= TOLERANCE


def test_what_the_batch_norm_knew_is_kept() -> None:
    """Mean and deviation of every output: those of data of which the batch norm has the statistics."""
    layer, norm = nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4, eps=1e-12, momentum=1.0)
    x = torch.randn(64, 3, 8, 8)
    with torch.no_grad():
        norm.weight.copy_(torch.tensor([-2.0, 0.5, 1.0, 3.0]))
        norm.bias.copy_(torch.tensor([1.0, -1.0, 0.0, 4.0]))
        nn.Sequential(layer, norm).train()(x)
    graph, _ = fold(capture(nn.Sequential(layer, norm).eval(), (x,)))
    mean, std = graph.meta["batch_norms"]["0"]
    assert mean.tolist() == [1.0, -1.0, 0.0, 4.0] and std.tolist() == [2.0, 0.5, 1.0, 3.0]
    outputs = run(graph, (x,)).movedim(1, 0).flatten(1).double()
    # the running variance divides by one less than the number of values, 4096
    assert torch.allclose(outputs.mean(1), mean, atol=1e-5) and torch.allclose(outputs.std(1), std, rtol=1e-5)


def test_the_statistics_of_a_plain_batch_norm() -> None:
    graph, _ = fold(zoo.captured("bn_plain"))
    mean, std = graph.meta["batch_norms"]["0"]
    assert mean.tolist() == [0.0] * 6 and std.tolist() == [1.0] * 6


def test_negative_and_zero_factors() -> None:
    model, x = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)), torch.randn(2, 3, 5, 5)
    zoo.unsettle(model[1])
    with torch.no_grad():
        model[1].weight.copy_(torch.tensor([-1.0, 0.0, 2.0, 0.5]))
        graph, _ = fold(capture(model.eval(), (x,)))
        assert zoo.relative(graph(x), model(x)) <= TOLERANCE


def left(model: nn.Module, x: Tensor, reason: str) -> GraphModule:
    """Fold ``model``, of whose batch norms one cannot be folded for this reason; it must still compute the same."""
    for norm in model.modules():
        if isinstance(norm, nn.BatchNorm2d):
            zoo.unsettle(norm)
    model.eval()
    graph, notes = fold(capture(model, (x,)))
    assert any(reason in note and "stays in float" in note for note in notes), notes
    with torch.no_grad():
        assert zoo.relative(zoo.leaves(graph(x))[0], zoo.leaves(model(x))[0]) <= TOLERANCE
    return graph


def test_no_layer_before_it() -> None:
    graph = left(zoo.ZOO["bn_first"].model(), torch.randn(2, 3, 6, 6), "its input '2' is not a convolution or linear layer")
    assert [node.meta["name"] for node in batch_norms(graph)] == ["0", "3"]


def test_called_twice() -> None:
    left(zoo.ZOO["bn_twice"].model(), torch.randn(2, 3, 6, 6), "'bn#2' stays in float: it is called more than once")


class Branching(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.bn = nn.Conv2d(3, 3, 3, padding=1), nn.BatchNorm2d(3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        return self.bn(x) + x


class TwoNorms(nn.Module):
    """One convolution, each of its two uses with a batch norm of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.bn1, self.bn2 = nn.Conv2d(3, 3, 3, padding=1), nn.BatchNorm2d(3), nn.BatchNorm2d(3)

    def forward(self, x: Tensor) -> Tensor:
        return self.bn2(self.conv(F.relu(self.bn1(self.conv(x)))))


class Computed(nn.Module):
    """A weight that depends on the input."""

    def __init__(self) -> None:
        super().__init__()
        self.weight, self.bn = nn.Parameter(torch.randn(3, 3, 3, 3)), nn.BatchNorm2d(3)

    def forward(self, x: Tensor) -> Tensor:
        return self.bn(F.conv2d(x, self.weight * x.mean()))


def test_the_layers_output_is_used_elsewhere() -> None:
    left(Branching(), torch.randn(2, 3, 6, 6), "the output of 'conv' is used elsewhere too")


def test_the_layers_weights_are_used_elsewhere() -> None:
    left(TwoNorms(), torch.randn(2, 3, 6, 6), "the weights of 'conv' are used elsewhere too")


def test_the_weight_is_computed() -> None:
    left(Computed(), torch.randn(2, 3, 6, 6), "is computed, not stored")


def test_excluded_by_name() -> None:
    graph, notes = fold(zoo.captured("residual"), exclude=("bn[12]",))
    assert [node.meta["name"] for node in batch_norms(graph)] == ["bn1", "bn2"] and notes == []


def test_a_promise_that_is_not_kept() -> None:
    with pytest.raises(GraphError, match="'bn1' was not folded"):
        FoldBatchNorm().ensures(zoo.captured("residual"))
