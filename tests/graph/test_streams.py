"""Which channels may be mixed: a random matrix leaves the network what it was."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from halfstep.graph.capture import capture
from halfstep.graph.run import run
from halfstep.graph.streams import find_streams

SIZE = 6


class Bottlenecks(nn.Module):
    """Two layers write a linear stream, three read it: one behind a padding and an average, one of them writes another stream."""

    def __init__(self, join: str = "add", has_bias: bool = True, between: nn.Module | None = None) -> None:
        super().__init__()
        self.join, self.between = join, between or nn.Dropout()
        self.stem, self.project = nn.Conv2d(3, SIZE, 3, bias=has_bias), nn.Conv2d(SIZE, SIZE, 3, padding=1)
        self.expand, self.up = nn.Conv2d(SIZE, SIZE, 1), nn.ConvTranspose2d(2 * SIZE if join == "channels" else SIZE, 4, 2, bias=has_bias)
        self.classifier = nn.Linear(4, 5, bias=has_bias)

    def forward(self, x: Tensor) -> Tensor:
        x = self.between(self.stem(x))
        y = self.project(torch.relu(self.expand(x)))
        joins: dict[str, Callable[[], Tensor]] = {
            "add": lambda: torch.add(x, y, alpha=2),
            "sub": lambda: x - y,
            "rows": lambda: torch.cat([x, y], 2),
            "channels": lambda: torch.cat([x, y], 1),
        }
        x = nn.functional.avg_pool2d(nn.functional.pad(joins[self.join](), (1, 1, 1, 1)), 2)
        found: Tensor = self.classifier(self.up(x).mean((2, 3)))
        return found


class Flattened(nn.Module):
    """A linear layer reads each channel as a block of columns; another one reads it behind a permutation of axes."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.blocks, self.last = nn.Conv2d(3, 4, 3), nn.Linear(4 * 36, 2), nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        found: Tensor = self.blocks(x.flatten(1)) + self.last(x.permute(0, 2, 3, 1)).mean((1, 2))
        return found


NETWORKS: dict[str, tuple[Callable[[], nn.Module], list[int]]] = {
    "sum": (Bottlenecks, [SIZE, 4]),
    "no biases": (lambda: Bottlenecks(has_bias=False), [SIZE, 4]),
    "difference": (lambda: Bottlenecks("sub"), [SIZE, 4]),
    "rows": (lambda: Bottlenecks("rows"), [SIZE, 4]),
    "flatten": (Flattened, [4]),
}
OTHERS: dict[str, tuple[Callable[[], nn.Module], list[int]]] = {
    "side by side": (lambda: Bottlenecks("channels"), [4]),
    "ReLU": (lambda: Bottlenecks(between=nn.ReLU()), [4]),
    "leaky ReLU": (lambda: Bottlenecks(between=nn.LeakyReLU()), [4]),
    "max pooling": (lambda: Bottlenecks(between=nn.MaxPool2d(3, 1, 1)), [4]),
    "depthwise reader": (lambda: nn.Sequential(nn.Conv2d(3, SIZE, 1), nn.Conv2d(SIZE, SIZE, 3, groups=SIZE), nn.ReLU()), []),
    "grouped writer": (
        lambda: nn.Sequential(nn.Conv2d(3, SIZE, 1), nn.ReLU(), nn.Conv2d(SIZE, SIZE, 1, groups=2), nn.Conv2d(SIZE, 2, 1)),
        [],
    ),
    "one channel": (lambda: nn.Sequential(nn.Conv2d(3, 1, 1), nn.Conv2d(1, 2, 1)), []),
    "an output": (lambda: nn.Conv2d(3, SIZE, 1), []),
}


@pytest.mark.parametrize("name", list(NETWORKS))
def test_any_matrix_leaves_the_network_what_it_was(name: str, generator: torch.Generator) -> None:
    """Rotations stretched by up to 3 in any direction: float32 leaves 1e-5 of the largest output."""
    torch.manual_seed(2)
    factory, sizes = NETWORKS[name]
    model, x = factory().eval(), torch.randn(4, 3, 8, 8, generator=generator)
    graph = capture(model, (x,))
    before = {key: value.clone() for key, value in graph.state_dict().items()}
    streams = find_streams(graph)
    assert sorted(stream.size for stream in streams) == sorted(sizes)
    for stream in streams:
        turn, other = (torch.linalg.qr(torch.randn(stream.size, stream.size, generator=generator).double()).Q for _ in range(2))
        stream.mix(graph, turn * torch.linspace(1 / 3, 3, stream.size) @ other)
        assert not any(
            torch.equal(before[str(layer.weight.target)], graph.state_dict()[str(layer.weight.target)]) for layer in stream.writers
        )
    with torch.no_grad():
        expected = model(x)
    assert float((run(graph, (x,)) - expected).abs().max()) < 1e-5 * float(expected.abs().max())


@pytest.mark.parametrize("name", list(OTHERS))
def test_what_handles_channels_one_by_one_is_no_stream(name: str) -> None:
    factory, sizes = OTHERS[name]
    assert [stream.size for stream in find_streams(capture(factory().eval(), (torch.zeros(2, 3, 8, 8),)))] == sizes


def test_a_stream_by_name() -> None:
    graph = capture(Bottlenecks().eval(), (torch.zeros(2, 3, 8, 8),))
    stream = find_streams(graph)[0]
    assert [layer.name for layer in stream.writers] == ["stem", "project"] and [layer.name for layer in stream.readers] == ["expand", "up"]
    assert [node.meta["name"] for node in stream.axes][:1] == ["stem"] and set(stream.axes.values()) == {1}


def test_what_is_known_of_a_folded_norm_is_forgotten() -> None:
    graph = capture(Bottlenecks().eval(), (torch.zeros(2, 3, 8, 8),))
    graph.meta["batch_norms"] = {name: (torch.zeros(SIZE), torch.ones(SIZE)) for name in ("stem", "expand")}
    find_streams(graph)[0].mix(graph, torch.eye(SIZE, dtype=torch.float64))
    assert list(graph.meta["batch_norms"]) == ["expand"]
