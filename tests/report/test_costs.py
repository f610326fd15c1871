"""The layer that loses most is named."""

from __future__ import annotations

import torch
from torch import nn

import halfstep as hs
from halfstep.quantizers import quantizers
from halfstep.report.costs import layer_costs


def network() -> nn.Sequential:
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 4))


def test_a_layer_of_few_bits_costs_most() -> None:
    recipe = hs.Recipe.load("int8")
    scheme = type(recipe.scheme).model_validate(recipe.scheme.model_dump() | {"overrides": [{"pattern": "2", "weights": "int2"}]})
    x = torch.randn(64, 16)
    result = hs.quantize(network(), x, recipe.model_copy(update={"scheme": scheme}))
    before = {name: tensor.clone() for name, tensor in result.model.state_dict().items()}
    costs = layer_costs(result.float_model, result.model, (x,))
    assert next(iter(costs)) == "2" and costs["2"] > 10 * sum(cost for name, cost in costs.items() if name != "2")
    assert all(torch.equal(tensor, before[name]) for name, tensor in result.model.state_dict().items())
    assert all(quantizer.is_enabled for _, quantizer in quantizers(result.model))


def test_a_network_alone_has_the_cost_of_its_layers() -> None:
    """Of a single layer whose output stays in float: input and weights, which add up as powers do, to a few percent."""
    x = torch.randn(512, 16)
    result = hs.quantize(nn.Sequential(nn.Linear(16, 4)), x, "w4a8", samples=None)
    costs = layer_costs(result.float_model, result.model, (x,))
    with torch.no_grad():
        whole = (result.float_model(x) - result.model(x)).square().sum() / result.float_model(x).square().sum()
    assert 0.8 < sum(costs.values()) / float(whole) < 1.25
