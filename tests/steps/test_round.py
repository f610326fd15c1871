"""Rounding stores weights on their grid, by the method the recipe names."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import halfstep as hs
import zoo
from halfstep.errors import GraphError, RecipeError
from halfstep.graph.edges import behind_quantizer, quantizer_of
from halfstep.graph.edit import attribute, tensor_named
from halfstep.graph.operators import weighted_layers
from halfstep.graph.run import run
from halfstep.graph.serialize import duplicate
from halfstep.recipes import Recipe
from halfstep.rounding import ROUNDINGS
from halfstep.steps import Round
from halfstep.workflow.result import Result

NEXT_TO_THE_WEIGHT = ("nearest", "floor", "ceil", "stochastic")  # never go beyond the two codes around a weight


def rounded(method: str, seed: int = 0, recipe: str = "int8") -> Result:
    steps = ("fold_batch_norm", "place_quantizers", "calibrate", {"round": {"method": zoo.quick_rounding(method).spec()}})
    return hs.quantize(
        zoo.ZOO["residual"].model(), zoo.calibration_of("residual"), Recipe.load(recipe).model_copy(update={"steps": steps}), seed=seed
    )


def positions(result: Result) -> list[tuple[Tensor, Tensor]]:
    """(real weight, its rounded one), both in steps of the grid."""
    pairs = []
    for layer in weighted_layers(result.model):
        quantizer, source = quantizer_of(layer.weight), behind_quantizer(layer.weight)
        scale = quantizer.grid.along(quantizer.scale, attribute(result.model, source).shape)
        real = dict(result.float_model.named_parameters())[str(source.target)]
        pairs.append((real.detach() / scale, attribute(result.model, source).detach() / scale))
    return pairs


@pytest.mark.parametrize("method", list(ROUNDINGS))
@pytest.mark.parametrize("recipe", ["int8", "w4a8"])
def test_weights_lie_on_their_grid(method: str, recipe: str) -> None:
    result = rounded(method, recipe=recipe)
    Round().ensures(result.model)
    for real, stored in positions(result):
        assert torch.allclose(stored, stored.round(), atol=1e-4)  # a code of up to 127 times its scale, over its scale: 127 * 2^-23
        inside = real.abs() < 7
        if method in NEXT_TO_THE_WEIGHT:
            assert float((real - stored)[inside].abs().max()) <= 1 + 1e-4


def test_nearest_floor_and_ceil() -> None:
    for method, lowest, highest in (("nearest", -0.5, 0.5), ("floor", 0.0, 1.0), ("ceil", -1.0, 0.0)):
        for real, stored in positions(rounded(method)):
            inside = real.abs() < 126
            assert float((real - stored)[inside].min()) >= lowest - 1e-4 and float((real - stored)[inside].max()) <= highest + 1e-4


def test_random_rounding_follows_the_seed() -> None:
    first, again, other = (tensor_named(rounded("stochastic", seed).model, "conv2.weight") for seed in (3, 3, 4))
    assert torch.equal(first, again) and not torch.equal(first, other)


def test_a_promise_that_is_not_kept() -> None:
    graph = duplicate(zoo.quantized("residual").model)
    with torch.no_grad():
        tensor_named(graph, "conv2.weight")[0, 0, 0, 0] += 0.3 * float(quantizer_of(weighted_layers(graph)[1].weight).scale[0])
    with pytest.raises(GraphError, match="weight of 'conv2' does not lie on its grid"):
        Round().ensures(graph)


def test_unknown_methods_are_refused_when_the_step_is_made() -> None:
    with pytest.raises(RecipeError, match="Did you mean 'nearest'"):
        Round(method="nearst")


def test_a_bias_that_data_make_large_still_fits_its_grid() -> None:
    """Behind a refitted scale, |bias| / (s_x s_w) has to stay within int32."""
    steps = ("fold_batch_norm", "place_quantizers", "calibrate", {"round": {"method": "lattice"}})
    recipe = Recipe.load("int8").model_copy(update={"steps": steps})
    result = hs.quantize(zoo.ZOO["large_bias"].model(), zoo.calibration_of("large_bias"), recipe)
    for layer in weighted_layers(result.model):
        bias, source = quantizer_of(layer.bias), behind_quantizer(layer.bias)
        stored = attribute(result.model, source)
        assert float((stored.double() / bias.scale).abs().max()) < 2**31
        assert torch.allclose(bias(stored), stored, rtol=1e-4, atol=1e-3 * float(stored.abs().max()))


def _behind_one_sample() -> tuple[nn.Module, Tensor]:
    return nn.Sequential(nn.Linear(8, 300), nn.SiLU(), nn.Linear(300, 3)), torch.randn(1, 8)


def _behind_a_constant_channel() -> tuple[nn.Module, Tensor]:
    """Of a depthwise convolution without padding: one group sees nothing but 0.7."""
    model = nn.Sequential(nn.Conv2d(3, 6, 3, padding=1), nn.ReLU(), nn.Conv2d(6, 6, 3, groups=6), nn.Conv2d(6, 4, 1))
    with torch.no_grad():
        model[0].weight[2] = 0
        model[0].bias[2] = 0.7
    return model, torch.randn(4, 3, 8, 8)


@pytest.mark.parametrize("method", ["lattice", {"gptq": {"asymmetric": True, "centred": True, "damping": 0.0}}], ids=str)
@pytest.mark.parametrize("grouped", [False, True])
@pytest.mark.parametrize("made", [_behind_one_sample, _behind_a_constant_channel])
def test_constant_inputs_of_a_layer_or_a_group(
    made: Callable[[], tuple[nn.Module, Tensor]], grouped: bool, method: str | dict[str, object]
) -> None:
    """Their covariance is 0 up to the errors of its sums. 4 bits of uniform weights: half a step is 1/15 of the largest, about 24 dB."""
    model, inputs = made()
    model = model.eval()
    recipe = Recipe.load("lattice-w4-g32" if grouped else "w4a8")
    recipe = recipe.model_copy(update={"steps": (*recipe.steps[:-1], {"round": {"method": method}})})
    graph = hs.quantize(model, inputs, recipe).model
    assert zoo.relative(run(graph, (inputs,)), model(inputs).detach()) < 0.1
