"""Every step that does not quantize, on networks whose channels lie where one may not expect them: none changes the network.

Axes of equal size are what a step that takes the wrong one does not notice.
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.fx import GraphModule

from halfstep.graph.capture import capture
from halfstep.graph.serialize import duplicate
from halfstep.graph.statistics import Statistics
from halfstep.steps import STEPS, AbstractStep, Context, FoldBatchNorm, Scheme
from halfstep.steps.pipeline import run_steps
from halfstep.stopwatch import Stopwatch


class Turned(nn.Module):
    """Swaps two axes."""

    def __init__(self, first: int, second: int) -> None:
        super().__init__()
        self.first, self.second = first, second

    def forward(self, x: Tensor) -> Tensor:
        return x.transpose(self.first, self.second)


class Residual(nn.Module):
    """Adds what a linear layer writes on the last axis and a convolution on the first one of a sample."""

    def __init__(self) -> None:
        super().__init__()
        self.linear, self.norm, self.conv, self.last = nn.Linear(8, 8), nn.BatchNorm1d(8), nn.Conv1d(8, 8, 1), nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        return self.last((self.norm(self.linear(x)) + self.conv(x)).relu())


class Added(nn.Module):
    """Puts a stored tensor of fewer axes in front of what a layer writes, and holds it between bounds of its own for each channel."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(4, 8), nn.Linear(8, 8)
        self.stored, self.high = nn.Parameter(torch.randn(8)), nn.Parameter(torch.rand(8) + 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(torch.clamp(self.stored + self.first(x), -self.high, self.high))


class OneVector(nn.Module):
    """Its gate is computed from a vector without a batch axis."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.gate, self.last = nn.Linear(4, 8), nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 8)), nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.first(x) * self.gate(x.mean((0, 1))))


class Squeezed(nn.Module):
    """Drops all axes of size 1, and adds the mean of everything."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.linear = nn.Conv2d(3, 8, 6), nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x).relu().squeeze()
        return self.linear(y) + y.mean()


def _samples_as_channels() -> nn.Module:
    return nn.Sequential(nn.Conv1d(16, 16, 3, padding=1), nn.ReLU(), nn.Conv1d(16, 8, 3), nn.ReLU6(), nn.ConvTranspose1d(8, 16, 3))


def _flattened() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.BatchNorm1d(64), nn.Linear(64, 8), nn.BatchNorm1d(8), nn.ReLU6(),
                         nn.Linear(8, 3))  # fmt: skip


NETWORKS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "linear, norm of as many positions": (lambda: nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 5)), (8, 4)),
    "linear, norm of other positions": (lambda: nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(6, 5)), (8, 4)),
    "linear on images": (lambda: nn.Sequential(nn.Linear(4, 8), nn.BatchNorm2d(8), nn.ReLU(), nn.Linear(8, 8)), (8, 5, 4)),
    "linear on vectors": (lambda: nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 5)), (4,)),
    "linear, then convolution": (lambda: nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Conv1d(8, 8, 1), nn.ReLU(), nn.Linear(8, 8)), (8, 8)),
    "turned in front of the norm": (
        lambda: nn.Sequential(nn.Linear(4, 8), Turned(1, 2), nn.BatchNorm1d(8), nn.ReLU(), nn.Conv1d(8, 6, 1), nn.Conv1d(6, 4, 3)),
        (8, 4),
    ),
    "convolution turned": (
        lambda: nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), Turned(1, 2), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 1)), (3, 8, 8)
    ),
    "convolution, then linear": (
        lambda: nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Conv2d(8, 8, 1)),
        (3, 8, 8),
    ),
    "transposed in groups": (
        lambda: nn.Sequential(nn.ConvTranspose2d(4, 8, 3, groups=2), nn.BatchNorm2d(8, affine=False), nn.ReLU(), nn.Conv2d(8, 8, 1)),
        (4, 6, 6),
    ),
    "norm behind a flatten": (_flattened, (3, 6, 6)),
    "norm of the input": (lambda: nn.Sequential(nn.BatchNorm1d(8), nn.Linear(4, 8), nn.PReLU(8), nn.Linear(8, 8)), (8, 4)),
    "two axes added": (Residual, (8, 8)),
    "a stored tensor of fewer axes": (Added, (8, 4)),
    "one vector": (OneVector, (8, 4)),
    "no axes of size 1": (Squeezed, (3, 6, 6)),
    "samples as channels": (_samples_as_channels, (8,)),
    "pooled without a batch axis": (lambda: nn.Sequential(nn.Conv1d(8, 8, 3), nn.ReLU(), nn.AvgPool2d(2), nn.Conv1d(4, 8, 1)), (8, 8)),
}  # fmt: skip
FLOAT_STEPS = [name for name in STEPS if not STEPS[name].quantizes]


def network(name: str) -> tuple[nn.Module, Tensor]:
    """With batch norms that know something."""
    torch.manual_seed(0)
    make, shape = NETWORKS[name]
    model = make().eval()
    for norm in model.modules():
        if isinstance(norm, nn.modules.batchnorm._BatchNorm):
            assert norm.running_mean is not None and norm.running_var is not None
            norm.running_mean.normal_()
            norm.running_var.uniform_(0.3, 3)
            if norm.affine:
                nn.init.normal_(norm.weight, 1, 0.5)
                nn.init.normal_(norm.bias)
    return model, torch.randn(16, *shape)


@functools.cache
def captured(name: str) -> tuple[GraphModule, Tensor]:
    model, inputs = network(name)
    return capture(model, (inputs,)), inputs


def run_on(name: str, steps: list[AbstractStep]) -> tuple[GraphModule, Context]:
    """`run_steps` raises where a step changes the network."""
    graph, inputs = captured(name)
    generator, witness = torch.Generator().manual_seed(0), copy.deepcopy(graph.meta["witness"])
    context = Context(Scheme(), Statistics("x"), generator, batches=lambda: [(inputs,)], witness=witness)
    return run_steps(duplicate(graph), steps, context, Stopwatch()).graph, context


@pytest.mark.parametrize("step", FLOAT_STEPS)
@pytest.mark.parametrize("name", NETWORKS)
def test_a_step_that_does_not_quantize_leaves_the_network_as_it_is(name: str, step: str) -> None:
    chosen = STEPS.create(step)
    _, context = run_on(name, [FoldBatchNorm(), chosen])
    assert context.witness is not None
    assert chosen.is_exact == (step not in context.witness.changes)
    # What changes on purpose: half of an eighth of a step where ReLUs bend, one normal value in 700.
    assert all(change < 0.02 for change in context.witness.changes.values())


@pytest.mark.parametrize(("name", "num_left"), [
    ("linear, norm of as many positions", 1), ("linear, norm of other positions", 1), ("linear on images", 1), ("linear on vectors", 0),
    ("turned in front of the norm", 1), ("convolution, then linear", 0), ("two axes added", 1),
])  # fmt: skip
def test_a_batch_norm_is_folded_where_it_works_on_the_channels_of_its_layer(name: str, num_left: int) -> None:
    graph, context = run_on(name, [FoldBatchNorm()])
    assert sum(node.op == "call_module" for node in graph.graph.nodes) == num_left
    assert sum("stays in float" in note for note in context.notes) == num_left
