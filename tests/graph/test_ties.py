"""Which channels may be scaled, and which only together: random factors leave the network what it was."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.fx import GraphModule

from halfstep.graph.capture import capture
from halfstep.graph.channels import scale_channels, scale_outputs
from halfstep.graph.edit import attribute, set_parameter
from halfstep.graph.run import run
from halfstep.graph.ties import Ties, find_ties

SIZE = 6


class Residual(nn.Module):
    """Three layers write one stream; the last one reads it behind a mean. No clip has an upper bound."""

    def __init__(self, join: str = "add") -> None:
        super().__init__()
        self.stem, self.a, self.b = nn.Conv2d(3, SIZE, 3), nn.Conv2d(SIZE, SIZE, 1), nn.Conv2d(SIZE, SIZE, 3, padding=1, groups=SIZE)
        self.classifier, self.join = nn.Linear(SIZE, 5), join

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = x + self.a(torch.relu(x)) if self.join == "add" else x - self.a(torch.relu(x))
        x = nn.functional.max_pool2d(x + self.b(x), 2)
        found: Tensor = self.classifier(torch.relu(x).mean((2, 3)))
        return found


class Fire(nn.Module):
    """Two layers side by side."""

    def __init__(self, axis: int = 1) -> None:
        super().__init__()
        self.squeeze, self.e1, self.e3 = nn.Conv2d(3, 4, 1), nn.Conv2d(4, SIZE, 1), nn.Conv2d(4, SIZE, 3, padding=1)
        self.last, self.axis = nn.Conv2d(2 * SIZE if axis == 1 else SIZE, 4, 1), axis

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.squeeze(x))
        found: Tensor = self.last(torch.cat([torch.relu(self.e1(x)), torch.relu(self.e3(x))], self.axis))
        return found


class Bound(nn.Module):
    """Everything that a layer writes here reaches something that does not scale."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, SIZE, 1), nn.Conv2d(SIZE, SIZE, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        found: Tensor = self.second(torch.sigmoid(x)) * x
        return found


def flattened() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 36, 7), nn.ReLU(), nn.Linear(7, 2))


NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "sum": Residual,
    "difference": lambda: Residual("sub"),
    "concatenation": Fire,
    "concatenation of rows": lambda: Fire(axis=2),
    "flatten": flattened,
}


def scale(graph: GraphModule, ties: Ties, factors: Tensor) -> None:
    for layer, numbers in ties.writers:
        scale_outputs(graph, layer, factors[numbers])
    for layer, numbers in ties.readers:
        set_parameter(graph, layer.weight, scale_channels(attribute(graph, layer.weight), layer, inputs=1 / factors[numbers]))


@pytest.mark.parametrize("name", list(NETWORKS))
def test_any_factors_of_free_channels_leave_the_network_what_it_was(name: str, generator: torch.Generator) -> None:
    """Factors of 1/8 to 8 on sums of up to 150 terms: float32 leaves 1e-5 of the largest output."""
    torch.manual_seed(2)
    model, x = NETWORKS[name]().eval(), torch.randn(4, 3, 8, 8, generator=generator)
    graph = capture(model, (x,))
    ties = find_ties(graph)
    assert not bool(ties.is_bound.all())
    factors = torch.exp2(6 * torch.rand(len(ties.is_bound), generator=generator, dtype=torch.float64) - 3)
    scale(graph, ties, torch.where(ties.is_bound, 1, factors))
    with torch.no_grad():
        expected = model(x)
    assert float((run(graph, (x,)) - expected).abs().max()) < 1e-5 * float(expected.abs().max())
    scale(graph, ties, torch.where(ties.is_bound, 2.0, 1.0).double())  # what is bound is bound for a reason
    assert float((run(graph, (x,)) - expected).abs().max()) > 1e-2 * float(expected.abs().max())


@pytest.mark.parametrize(
    ("name", "num_free", "num_bound"),
    [
        ("sum", SIZE, 5),  # one stream; the classifier's outputs leave the network
        ("concatenation", 4 + 2 * SIZE, 4),
        ("concatenation of rows", 4 + SIZE, 4),
        ("flatten", 4 + 7, 2),
    ],
)
def test_how_many_factors_there_are(name: str, num_free: int, num_bound: int) -> None:
    ties = find_ties(capture(NETWORKS[name]().eval(), (torch.zeros(2, 3, 8, 8),)))
    assert (int((~ties.is_bound).sum()), int(ties.is_bound.sum())) == (num_free, num_bound)


def test_what_does_not_scale_binds() -> None:
    assert bool(find_ties(capture(Bound().eval(), (torch.zeros(2, 3, 4, 4),))).is_bound.all())


def test_layers_that_share_their_weights_take_no_part() -> None:
    shared = nn.Conv2d(SIZE, SIZE, 1)
    model = nn.Sequential(nn.Conv2d(3, SIZE, 1), shared, nn.ReLU(), shared, nn.Conv2d(SIZE, 2, 1)).eval()
    ties = find_ties(capture(model, (torch.zeros(2, 3, 4, 4),)))
    assert bool(ties.is_bound.all()) and len(ties.writers) == 2
