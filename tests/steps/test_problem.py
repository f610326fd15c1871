"""The moments and samples of a layer against what they are defined to be."""

from __future__ import annotations

import pytest
import torch

import zoo
from halfstep.errors import CalibrationError
from halfstep.graph.edges import behind_quantizer
from halfstep.graph.edit import attribute
from halfstep.graph.operators import linear_operator, weighted_layers
from halfstep.steps.problem import gather_moments, gather_samples
from halfstep.steps.walk import Walk


@pytest.mark.parametrize("name", ["residual", "depthwise", "transposed", "attention", "static_batch"])
def test_moments_over_all_positions(name: str, generator: torch.Generator) -> None:
    result = zoo.quantized(name)
    inputs = zoo.ZOO[name].inputs(7, 3)
    walk = Walk(result.model, result.float_model, [tuple(x[:4] for x in inputs), tuple(x[4:] for x in inputs)])
    layers = {layer.node: layer for layer in weighted_layers(result.model) if behind_quantizer(layer.weight).op == "get_attr"}
    for node in walk.stops(layers):
        layer = layers[node]
        weight = attribute(result.model, behind_quantizer(layer.weight))
        operator = linear_operator(layer, weight.shape[2:])
        moments = gather_moments(walk, layer, operator, weight, 10_000, generator)
        patches = []
        for side in ("float", "quantized"):
            x = torch.cat([getattr(pair, side) for pair in walk.pairs(layer.input)])
            everywhere = torch.arange(operator.num_positions(x, weight)).expand(len(x), -1)
            patches.append(operator.patches(x, weight, everywhere).double())
        exact, quantized = patches
        count = exact.shape[1]
        assert moments.num_patches == count
        for found, want in (
            (moments.gram, quantized.transpose(1, 2) @ quantized / count),
            (moments.cross, exact.transpose(1, 2) @ quantized / count),
            (moments.mean, quantized.mean(1)),
            (moments.float_mean, exact.mean(1)),
        ):
            assert torch.allclose(found, want, rtol=1e-4, atol=1e-5 * float(want.abs().max()))


def test_samples_are_the_float_networks_outputs() -> None:
    result = zoo.quantized("residual")
    inputs = zoo.ZOO["residual"].inputs(6, 3)
    walk = Walk(result.model, result.float_model, [inputs])
    layers = {layer.node: layer for layer in weighted_layers(result.model)}
    for node in walk.stops(layers):
        layer = layers[node]
        weight, bias = (walk.constant(part, is_float=True) for part in (layer.weight, layer.bias))
        samples = gather_samples(walk, layer, linear_operator(layer, weight.shape[2:]), weight, bias)
        assert len(samples.inputs) == len(samples.outputs) == 6
        follower = next(iter(node.users))
        if samples.activation is not None:
            assert "relu" in str(follower.target)
            assert torch.equal(samples.activation(samples.outputs), samples.outputs.clamp(min=0))


def test_inputs_that_are_not_finite_name_the_layer(generator: torch.Generator) -> None:
    result = zoo.quantized("residual")
    inputs = zoo.ZOO["residual"].inputs(4, 0)
    inputs[0][1, 0, 0, 0] = torch.nan
    layer = weighted_layers(result.model)[0]
    weight = attribute(result.model, behind_quantizer(layer.weight))
    walk = Walk(result.model, result.float_model, [inputs])
    next(walk.stops([layer.node]))
    with pytest.raises(CalibrationError, match=f"input of '{layer.name}' is NaN"):
        gather_moments(walk, layer, linear_operator(layer, weight.shape[2:]), weight, 10_000, generator)
