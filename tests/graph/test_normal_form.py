"""One spelling for what PyTorch can say in several ways: the same result, and the operators that later tables know."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import halfstep as hs
import zoo
from halfstep.graph.capture import capture
from halfstep.graph.names import operator_name
from halfstep.graph.operators import weighted_layers
from halfstep.graph.run import run
from halfstep.quantizers import UniformQuantizer


class Stored(nn.Module):
    """A function of the input and a stored matrix [4, 6] and vector [6]."""

    def __init__(self, function: Callable[[Tensor, Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function
        self.matrix, self.vector = nn.Parameter(torch.randn(4, 6)), nn.Parameter(torch.randn(6))

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x, self.matrix, self.vector)


CASES: list[tuple[Callable[[Tensor, Tensor, Tensor], Tensor], list[str]]] = [
    (lambda x, w, b: x @ w, ["linear"]),
    (lambda x, w, b: x[:, 0].mm(w), ["select", "linear"]),
    (lambda x, w, b: torch.addmm(b, x[:, 0], w), ["select", "linear"]),
    (lambda x, w, b: torch.addmm(b, x[:, 0], w, beta=2), ["select", "addmm"]),
    (lambda x, w, b: w.T @ x.mT, ["mT", "matmul"]),
    (lambda x, w, b: torch.stack([x, x.relu()], -2), ["relu", "unsqueeze", "unsqueeze", "cat"]),
    (lambda x, w, b: torch.cat([x[:, :0], x.relu()], 1), ["relu"]),
    (lambda x, w, b: torch.cat([x, x[..., 4:], x.relu()], -1), ["relu", "cat"]),
    (lambda x, w, b: x - x.relu(), ["relu", "add"]),
    (lambda x, w, b: x - 1, ["sub"]),
    (lambda x, w, b: torch.addcmul(x, x, x.relu(), value=-3), ["relu", "mul", "add"]),
    (lambda x, w, b: torch.slice_scatter(x, x[:, 1:].relu(), 1, 1), ["slice", "relu", "slice", "cat"]),
    (lambda x, w, b: torch.slice_scatter(x, x[:, 1:3].relu(), -2, 1, -2), ["slice", "relu", "slice", "slice", "cat"]),
    (lambda x, w, b: torch.slice_scatter(x, x.relu(), 1), ["relu"]),
    (lambda x, w, b: torch.slice_scatter(x, x[:, ::2].relu(), 1, 0, 5, 2), ["slice", "relu", "slice_scatter"]),
    (lambda x, w, b: torch.select_scatter(x, x[:, 2].relu(), 1, -1), ["select", "relu", "unsqueeze", "slice", "cat"]),
    (lambda x, w, b: (0 + x + 0) * 1, []),
    (lambda x, w, b: x.to(torch.float32).relu(), ["relu"]),
    (lambda x, w, b: (x > 0).to(torch.float32), ["gt", "to"]),
    (lambda x, w, b: x.round().int() + 0, ["round", "to"]),
]


def test_bounds_of_a_clamp_are_floats() -> None:
    x = torch.randn(4, 6)
    graph = capture(Stored(lambda x, w, b: x.clamp(-1, 1.5)), (x,))
    (clamp,) = [node for node in graph.graph.nodes if node.op == "call_function"]
    assert [type(bound) for bound in clamp.args[1:]] == [float, float]


@pytest.mark.parametrize("size", [1, 2, 3, 5])
@pytest.mark.parametrize("axes", [1, 2, 3])
def test_adaptive_max_pooling(axes: int, size: int, generator: torch.Generator) -> None:
    """Of 8 entries: windows of one size, of different sizes, and some that overlap; in integers as well."""
    convolution = (nn.Conv1d, nn.Conv2d, nn.Conv3d)[axes - 1](2, 3, 1)
    pooling: nn.Module = (nn.AdaptiveMaxPool1d, nn.AdaptiveMaxPool2d, nn.AdaptiveMaxPool3d)[axes - 1](size)
    model, x = (
        nn.Sequential(convolution, nn.ReLU(), pooling, nn.Flatten(), nn.Linear(3 * size**axes, 4)).eval(),
        torch.randn(8, 2, *[8] * axes),
    )
    graph = capture(model, (x,))
    assert "adaptive_max" not in " ".join(operator_name(node) for node in graph.graph.nodes if node.op == "call_function")
    with torch.no_grad():
        assert torch.allclose(run(graph, (x,)), model(x), atol=1e-6)
    hs.lower(hs.quantize(model, x, "int8"))


def test_adaptive_max_pooling_whose_places_are_read(generator: torch.Generator) -> None:
    class Places(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            values, places = nn.functional.adaptive_max_pool2d(x, 3, return_indices=True)
            return values + places

    x = torch.randn(2, 3, 8, 8, generator=generator)
    assert torch.equal(run(capture(Places(), (x,)), (x,)), Places()(x))


SINGLE: list[tuple[nn.Module, tuple[int, ...]]] = [
    (nn.Linear(8, 8), (8,)),
    (nn.Conv1d(8, 8, 3, padding=1), (8, 8)),
    (nn.Conv2d(8, 8, 2, padding="same"), (8, 8, 8)),
    (nn.Conv3d(2, 4, 3), (2, 4, 4, 4)),
    (nn.ConvTranspose1d(8, 8, 3, groups=2), (8, 8)),
    (nn.ConvTranspose2d(2, 4, 3, stride=2), (2, 4, 4)),
    (nn.ConvTranspose3d(2, 4, 3), (2, 4, 4, 4)),
    (nn.MaxPool2d(2), (8, 8, 8)),
    (nn.AvgPool2d(2), (8, 8, 8)),
    (nn.AdaptiveAvgPool2d(2), (8, 8, 8)),
]


@pytest.mark.parametrize(("module", "shape"), SINGLE, ids=[type(module).__name__ for module, _ in SINGLE])
def test_what_has_no_batch_axis_becomes_a_batch_of_one(module: nn.Module, shape: tuple[int, ...]) -> None:
    class One(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = module

        def forward(self, x: Tensor) -> Tensor:
            return self.layer(x.view(shape)).relu().unsqueeze(0)

    network, x = One(), torch.randn(1, *shape)
    graph = capture(network, (x,))
    (layer,) = (node for node in graph.graph.nodes if node.meta["name"] == "layer")
    assert layer.meta["shape"][0] == 1
    assert [operator_name(user) for user in layer.users] == ["relu"]  # it can share the layer's grid
    assert torch.equal(run(graph, (x,)), network(x))


@pytest.mark.parametrize(
    ("ends", "operators"),
    [
        ({"min": torch.tensor(0.0), "max": torch.tensor(6.0)}, ["clamp"]),
        ({"max": torch.tensor(0.5)}, ["clamp"]),
        ({"min": torch.zeros(4), "max": torch.tensor(1.0)}, ["maximum", "minimum"]),
        ({"min": torch.randn(5, 1)}, ["maximum"]),
    ],
)
def test_bounds_that_are_tensors(ends: dict[str, Tensor], operators: list[str]) -> None:
    class Bounded(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            for name, bound in ends.items():
                self.register_buffer(name, bound)

        def forward(self, x: Tensor) -> Tensor:
            return torch.clamp(x, **dict(self.named_buffers()))

    network, x = Bounded(), torch.randn(3, 5, 4)
    graph = capture(network, (x,))
    assert [operator_name(node) for node in graph.graph.nodes if node.op == "call_function"] == operators
    assert torch.equal(run(graph, (x,)), network(x))


@pytest.mark.parametrize(("function", "operators"), CASES, ids=[str(index) for index in range(len(CASES))])
def test_the_form_is_normal_and_the_result_the_same(function: Callable[[Tensor, Tensor, Tensor], Tensor], operators: list[str]) -> None:
    network, x = Stored(function), torch.randn(3, 5, 4)
    graph = capture(network, (x,))
    found = [operator_name(node) for node in graph.graph.nodes if node.op == "call_function" and operator_name(node) != "sym_size"]
    assert found == operators
    assert zoo.relative(run(graph, (x,)).float(), network(x).detach().float()) <= 1e-6


def test_a_product_with_a_stored_matrix_has_a_scale_for_each_output() -> None:
    network, x = Stored(lambda x, w, b: x @ w), torch.randn(8, 5, 4)
    (layer,) = weighted_layers(hs.quantize(network, x).model)
    quantizer = layer.node.graph.owning_module.get_submodule(str(layer.weight.target))  # type: ignore[union-attr]
    assert isinstance(quantizer, UniformQuantizer) and quantizer.scale.numel() == 6
    assert layer.weight.args[0].meta["name"] == "matrix"  # type: ignore[union-attr]


def test_regions_are_taken_apart() -> None:
    class Regions(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(4, 4)

        def forward(self, x: Tensor) -> Tensor:
            with torch.no_grad():
                y = self.fc(x)
            with torch.autocast("cpu", enabled=False):
                z = y.relu() + x
            return z * 2

    network, x = Regions(), torch.randn(3, 4)
    graph = capture(network, (x,))
    assert [operator_name(node) for node in graph.graph.nodes if node.op == "call_function"] == ["linear", "relu", "add", "mul"]
    assert zoo.relative(run(graph, (x,)), network(x).detach()) <= 1e-6


def test_a_region_of_another_precision_is_refused() -> None:
    class Half(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            with torch.autocast("cpu", torch.bfloat16):
                return x @ x.mT

    with pytest.raises(hs.HalfstepError, match=r"autocast in torch\.bfloat16"):
        capture(Half(), (torch.randn(3, 4, 4),))


def test_a_clamp_may_have_infinite_bounds() -> None:
    class Bounded(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("low", torch.tensor(-torch.inf))
            self.register_buffer("high", torch.tensor(torch.inf))

        def forward(self, x: Tensor) -> Tensor:
            return torch.clamp(x, self.low, self.high) * 2

    x = torch.randn(3, 4)
    assert torch.equal(run(capture(Bounded(), (x,)), (x,)), x * 2)
