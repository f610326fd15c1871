"""Copies of channels: the network computes what it computed and costs what was foretold; what cannot be copied stays single."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.fx import GraphModule

import zoo
from halfstep.graph.capture import capture
from halfstep.graph.check import check
from halfstep.graph.copies import Work, copy_channels, find_copyable
from halfstep.graph.edit import attribute, finish
from halfstep.graph.operators import weighted_layers
from halfstep.graph.run import cut, observe, run
from halfstep.graph.serialize import duplicate
from halfstep.graph.ties import Ties, find_ties


def some_copies(ties: Ties, seed: int = 0) -> Tensor:
    """1 to 3 of every number that may have them."""
    copyable = find_copyable(ties)
    drawn = torch.randint(1, 4, copyable.is_single.shape, generator=torch.Generator().manual_seed(seed))
    drawn[copyable.is_single] = 1
    return drawn[copyable.sets]


def copied(graph: GraphModule, shift: float = 0.0) -> tuple[GraphModule, Tensor]:
    """With some copies, shifted by up to ``shift``, so that those of a channel add up to 0."""
    ties = find_ties(graph)
    copies = some_copies(ties)
    shifts = torch.zeros(len(copies), max(copies.tolist(), default=1), dtype=torch.float64)
    for number, count in enumerate(copies.tolist()):
        own = torch.linspace(-shift, shift, count, dtype=torch.float64) if count > 1 else torch.zeros(1, dtype=torch.float64)
        shifts[number, :count] = own
    copy_channels(graph, ties, copies, shifts)
    graph = finish(graph)
    check(graph)
    return graph, copies


def assert_shapes_are_true(graph: GraphModule, inputs: tuple[Tensor, ...]) -> None:
    def see(node: torch.fx.Node, x: Tensor) -> Tensor:
        assert node.meta["shape"][1:] == tuple(x.shape[1:]), node.name
        return x

    observe(graph, inputs, set(find_ties(graph).channels), see)


@pytest.mark.parametrize("name", zoo.NAMES)
def test_the_network_computes_what_it_computed(name: str) -> None:
    graph, inputs = zoo.captured(name), zoo.ZOO[name].inputs(seed=5)
    before = zoo.leaves(run(graph, inputs))
    graph, _ = copied(graph)
    assert_shapes_are_true(graph, cut(graph, inputs)[0][0])
    for output, expected in zip(zoo.leaves(run(duplicate(graph), inputs)), before, strict=True):
        assert zoo.relative(output, expected) <= 1e-5


LINEAR: dict[str, tuple[nn.Module, tuple[int, ...]]] = {
    "convolutions": (nn.Sequential(nn.Conv2d(3, 6, 3), nn.Conv2d(6, 5, 3), nn.Conv2d(5, 4, 1)), (3, 8, 8)),
    "without biases": (nn.Sequential(nn.Conv2d(3, 6, 3, bias=False), nn.Conv2d(6, 4, 3, bias=False)), (3, 8, 8)),
    "depthwise": (nn.Sequential(nn.Conv2d(3, 6, 1), nn.Conv2d(6, 6, 3, groups=6), nn.Conv2d(6, 4, 1)), (3, 8, 8)),
    "depthwise twice": (
        nn.Sequential(nn.Conv2d(3, 6, 1), nn.Conv2d(6, 6, 3, groups=6), nn.Conv2d(6, 6, 3, groups=6, bias=False), nn.Conv2d(6, 4, 1)),
        (3, 8, 8),
    ),
    "depthwise first": (nn.Sequential(nn.Conv2d(3, 3, 3, groups=3), nn.Conv2d(3, 6, 1), nn.Conv2d(6, 4, 1)), (3, 8, 8)),
    "transposed": (nn.Sequential(nn.ConvTranspose2d(3, 6, 2, stride=2), nn.ConvTranspose2d(6, 4, 1)), (3, 4, 4)),
    "depthwise transposed": (
        nn.Sequential(nn.Conv2d(3, 6, 1), nn.ConvTranspose2d(6, 6, 2, stride=2, groups=6), nn.Conv2d(6, 4, 1)),
        (3, 4, 4),
    ),
    "flatten": (nn.Sequential(nn.Conv2d(3, 6, 3), nn.AvgPool2d(2), nn.Flatten(), nn.Linear(54, 4)), (3, 8, 8)),
    "linear": (nn.Sequential(nn.Linear(3, 6), nn.Linear(6, 5), nn.Linear(5, 2)), (7, 3)),
}


@pytest.mark.parametrize("name", LINEAR)
def test_shifts_add_up_to_nothing(name: str, generator: torch.Generator) -> None:
    """Where no function bends and no zeros come in; and there are copies at all."""
    model, shape = LINEAR[name]
    x = torch.randn(4, *shape, generator=generator)
    graph = capture(model.eval(), (x,))
    before = run(graph, (x,))
    graph, copies = copied(graph, shift=0.5)
    assert int(copies.max()) > 1
    assert_shapes_are_true(graph, (x,))
    assert torch.allclose(run(graph, (x,)), before, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", LINEAR)
def test_the_price_is_what_was_foretold(name: str, generator: torch.Generator) -> None:
    model, shape = LINEAR[name]
    graph = capture(model.eval(), (torch.randn(4, *shape, generator=generator),))
    foretold = Work(graph, find_ties(graph))
    graph, copies = copied(graph)
    ties = find_ties(graph)
    assert Work(graph, ties).total(torch.ones(len(ties.is_bound), dtype=torch.int64)) == pytest.approx(foretold.total(copies))


def test_the_price_of_one_more() -> None:
    """One of 6 channels that are written by 3 x 9 products at 36 positions and read by 4 x 9 at 16; an output counts 32."""
    graph = capture(nn.Sequential(nn.Conv2d(3, 6, 3), nn.Conv2d(6, 4, 3)).eval(), (torch.zeros(2, 3, 8, 8),))
    ties = find_ties(graph)
    copyable, work = find_copyable(ties), Work(graph, ties)
    assert work.of_one_more(copyable)[~copyable.is_single].tolist() == [36 * (27 + 32) + 16 * 36] * 6
    assert work.total(torch.ones_like(copyable.sets)) == 6 * (36 * (27 + 32) + 16 * 36) + 4 * 16 * 32


class Single(nn.Module):
    """Channels between two convolutions that something holds."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.how = how
        self.first, self.last = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 4, 1)
        self.between = nn.PReLU(8) if how == "slopes" else nn.Conv2d(8, 8, 1, groups=2) if how == "groups" else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        y = self.between(self.first(x))
        if self.how == "sum":
            y = y + y
        if self.how == "view":
            y = y.reshape(-1, 8, 4, 4)
        if self.how == "softmax":
            y = y.softmax(1)
        return self.last(y)


@pytest.mark.parametrize("how", ["slopes", "groups", "sum", "view", "softmax"])
def test_what_stays_single(how: str) -> None:
    graph = capture(Single(how).eval(), (torch.randn(2, 3, 4, 4),))
    assert bool(find_copyable(find_ties(graph)).is_single.all())


def test_what_is_known_of_batch_norms_follows() -> None:
    graph = capture(nn.Sequential(nn.Conv2d(3, 2, 1), nn.Conv2d(2, 4, 1)).eval(), (torch.randn(2, 3, 4, 4),))
    name = weighted_layers(graph)[0].name
    graph.meta["batch_norms"] = {name: (torch.tensor([1.0, 2.0]), torch.tensor([3.0, 4.0]))}
    ties = find_ties(graph)
    copies = torch.ones(len(ties.is_bound), dtype=torch.int64)
    copies[ties.writers[0][1][1]] = 2
    shifts = torch.tensor([-0.25, 0.25], dtype=torch.float64).expand(len(copies), 2) * (copies > 1)[:, None]
    copy_channels(graph, ties, copies, shifts)
    mean, std = graph.meta["batch_norms"][name]
    assert mean.tolist() == [1.0, 1.75, 2.25] and std.tolist() == [3.0, 4.0, 4.0]
    assert attribute(graph, weighted_layers(graph)[0].weight).shape[0] == 3
