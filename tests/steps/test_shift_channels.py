"""Channels are shifted so that one grid for all of them is narrower, and the network computes what it computed."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.fx import GraphModule

import halfstep as hs
import zoo
from halfstep.errors import CalibrationError, RecipeError
from halfstep.graph.capture import capture
from halfstep.graph.edit import tensor_named
from halfstep.graph.run import observe, run
from halfstep.steps import Context, PlaceQuantizers, ShiftChannels

SIZE = 8


class Bottlenecks(nn.Module):
    """A linear stream between layers, as in MobileNetV2. One half of its channels reaches far up, the other half far down."""

    def __init__(self, join: str = "add", padding: int = 0, has_bias: bool = True) -> None:
        super().__init__()
        self.join = join
        self.stem, self.project = nn.Conv2d(3, SIZE, 3), nn.Conv2d(SIZE, SIZE, 1)
        self.expand = nn.Conv2d(SIZE, SIZE, 3 if padding else 1, padding=padding, bias=has_bias)
        self.classifier = nn.Conv2d(2 * SIZE if join == "cat" else SIZE, 10, 1, bias=has_bias)
        with torch.no_grad():
            for layer in (self.stem, self.project):
                layer.bias.copy_(torch.tensor([3.0, -3.0] * (SIZE // 2)))

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        y = self.project(torch.relu(self.expand(x)))
        joined = {"add": lambda: x + y, "sub": lambda: x - y, "cat": lambda: torch.cat([x, y], 1), "first": lambda: y + x}[self.join]()
        found: Tensor = self.classifier(nn.functional.avg_pool2d(joined, 2)).mean((2, 3))
        return found


def network(**options: Any) -> nn.Module:
    torch.manual_seed(4)
    return Bottlenecks(**options).eval()


def shifted(model: nn.Module, x: Tensor, **options: object) -> tuple[GraphModule, Context]:
    shared = zoo.context(x)
    return ShiftChannels.from_options(options).apply(capture(model, (x,)), shared), shared


def ends(graph: GraphModule, x: Tensor) -> dict[str, tuple[Tensor, Tensor]]:
    """The least and the largest value of each channel, of every tensor with channels."""
    found: dict[str, tuple[Tensor, Tensor]] = {}

    def see(node: Any, value: Tensor) -> Tensor:
        if value.ndim == 4:
            found[node.name] = value.amin((0, 2, 3)), value.amax((0, 2, 3))
        return value

    observe(graph, (x,), {node for node in graph.graph.nodes if node.op == "call_function"}, see)
    return found


@pytest.mark.parametrize("has_bias", [True, False])
@pytest.mark.parametrize("join", ["add", "first", "sub", "cat"])
def test_the_network_computes_what_it_computed(join: str, has_bias: bool, generator: torch.Generator) -> None:
    """On other data than those of the ranges: biases rounded to float32 leave 1e-6 of the largest output."""
    model = network(join=join, has_bias=has_bias)
    x, y = (torch.randn(24, 3, 8, 8, generator=generator) for _ in range(2))
    graph, shared = shifted(model, x)
    with torch.no_grad():
        expected = model(y)
    assert float((run(graph, (y,)) - expected).abs().max()) < 1e-5 * float(expected.abs().max())
    assert shared.notes == ["Shifted the channels of 2 layers."]


def test_each_channel_lies_evenly_around_0_and_a_sum_is_narrower(generator: torch.Generator) -> None:
    model, x = network(), torch.randn(24, 3, 8, 8, generator=generator)
    before, after = ends(capture(model, (x,)), x), ends(shifted(model, x)[0], x)
    low, high = after["conv2d"]
    torch.testing.assert_close(low, -high, rtol=1e-4, atol=1e-4)
    for name in ("conv2d", "conv2d_2", "add"):
        old, new = (float(found[name][1].max() - found[name][0].min()) for found in (before, after))
        assert new < 0.8 * old


def test_layers_that_pad_and_functions_keep_what_they_read(generator: torch.Generator) -> None:
    model, x = network(padding=1), torch.randn(24, 3, 8, 8, generator=generator)
    graph, shared = shifted(model, x)
    assert shared.notes == [
        "No channels were shifted: all of them meet a function, a padding, an input or an output."
    ]  # the padded layer reads the stem, whose channels are those of the sum
    for name, parameter in model.named_parameters():
        assert torch.equal(tensor_named(graph, name), parameter)


def test_what_is_known_of_folded_batch_norms_follows(generator: torch.Generator) -> None:
    """A layer that writes shifted channels has another mean; one that only reads them writes what it wrote."""
    model, x = network(), torch.randn(24, 3, 8, 8, generator=generator)
    graph = capture(model, (x,))
    graph.meta["batch_norms"] = {name: (torch.zeros(SIZE, dtype=torch.float64), torch.ones(SIZE)) for name in ("stem", "expand")}
    found = ShiftChannels().apply(graph, zoo.context(x))
    moved = tensor_named(found, "stem.bias").detach() - model.stem.bias.detach()  # type: ignore[union-attr, operator]
    known = found.meta["batch_norms"]
    torch.testing.assert_close(known["stem"][0].float(), moved)
    assert not bool(known["expand"][0].any())


def test_8_bits_lose_less(generator: torch.Generator) -> None:
    """Grids of half the length have a quarter of the noise."""
    model, x = network(), torch.randn(64, 3, 8, 8, generator=generator)
    recipe = hs.Recipe.load("int8")
    with torch.no_grad():
        expected = model(x)
    errors = []
    for steps in (recipe.steps, ("fold_batch_norm", "shift_channels", *recipe.steps[1:])):
        result = hs.quantize(model, x, recipe.model_copy(update={"steps": steps}))
        with torch.no_grad():
            errors.append(float((result.model(x) - expected).square().mean()))
    assert errors[1] < 0.7 * errors[0]


def test_refusals(generator: torch.Generator) -> None:
    model, x = network(), torch.randn(4, 3, 8, 8, generator=generator)
    with pytest.raises(CalibrationError, match="empty"):
        ShiftChannels().apply(capture(model, (x,)), zoo.context(x[:0]))
    with pytest.raises(CalibrationError, match="NaN or infinite"):
        shifted(model, x / 0)
    graph = PlaceQuantizers().apply(capture(model, (x,)), zoo.context(x))
    with pytest.raises(RecipeError, match="shift_channels"):
        ShiftChannels().apply(graph, zoo.context(x))
