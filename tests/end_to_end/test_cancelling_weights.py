"""Depthwise layers whose weights nearly cancel on inputs with large means: no rounding ends worse than nearest with a corrected bias."""

from __future__ import annotations

import functools

import pytest
import torch
from torch import Tensor, nn

import halfstep as hs
from halfstep.graph.run import run
from halfstep.recipes import Recipe

NEAREST = ({"round": {"method": "nearest"}}, "correct_bias")


def network() -> nn.Module:
    """Biases of 6 make the means, kernels whose sum is 0.002 * 9 take them away again."""
    layers: list[nn.Module] = [nn.Conv2d(3, 16, 3, padding=1)]
    for _ in range(3):
        layers += [nn.Conv2d(16, 16, 3, groups=16), nn.Conv2d(16, 16, 1), nn.ReLU()]
    model = nn.Sequential(*layers, nn.Conv2d(16, 4, 1)).eval()
    with torch.no_grad():
        for layer in model:
            if isinstance(layer, nn.Conv2d) and layer.groups > 1:
                layer.weight.sub_(layer.weight.mean((2, 3), keepdim=True)).add_(0.002).mul_(8)
            elif isinstance(layer, nn.Conv2d):
                layer.bias.add_(6)
    return model


@functools.cache
def error_of(steps: tuple[str, ...]) -> tuple[float, tuple[str, ...]]:
    """The squared error on inputs of its own, and the notes."""
    torch.manual_seed(0)
    model, inputs, others = network(), torch.randn(64, 3, 12, 12), torch.randn(64, 3, 12, 12)
    recipe = Recipe.load("w4a8")
    chosen = NEAREST if steps == ("nearest",) else ({"round": {"method": METHODS[steps[0]]}},)
    recipe = recipe.model_copy(update={"steps": ("fold_batch_norm", "place_quantizers", "calibrate", *chosen)})
    result = hs.quantize(model, inputs, recipe)
    missed: Tensor = run(result.model, (others,)) - model(others).detach()
    return float(missed.square().sum()), result.record.notes


METHODS: dict[str, object] = {
    "lattice": "lattice",
    "lattice at the inputs as they are": {"lattice": {"asymmetric": False}},
    "gptq": "gptq",
    "coordinate descent": "coordinate_descent",
}


@pytest.mark.parametrize("name", METHODS)
def test_no_rounding_is_worse_than_nearest_with_a_corrected_bias(name: str) -> None:
    assert error_of((name,))[0] <= error_of(("nearest",))[0]


def test_the_note_names_the_layers() -> None:
    assert any("nearest codes and a corrected bias, because those of 'gptq'" in note and "'2'" in note for note in error_of(("gptq",))[1])
