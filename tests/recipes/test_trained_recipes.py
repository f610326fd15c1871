"""Shipped recipes that train, a step or two each, all the way to an integer program."""

from __future__ import annotations

import pytest
import torch

import halfstep as hs
from halfstep.demo.network import digits_network
from halfstep.graph.edges import behind_quantizer, quantizer_of
from halfstep.graph.edit import attribute
from halfstep.graph.operators import weighted_layers


@pytest.mark.parametrize(
    ("name", "levels"), [("pact-sawb-w4a4", set(range(-7, 8))), ("sat-w1a8", {-1, 1}), ("binary-w1a8", {-1, 1})], ids=lambda x: str(x)[:14]
)
def test_it_trains_and_its_integers_are_its_simulation(name: str, levels: set[int]) -> None:
    data = hs.load_data("digits:calibration")
    result = hs.finetune(digits_network(), data, name, options={"epochs": 0.5, "batch_size": 64})
    hs.lower(result)
    program = result.record.program
    assert program is not None and all(operator.num_differing == 0 for operator in program.operators)
    codes = {int(code) for codes in weight_codes(result) for code in codes.unique()}
    assert codes <= levels and {min(levels), max(levels)} <= codes


def weight_codes(result: hs.Result) -> list[torch.Tensor]:
    """Of the layers between the first and the last."""
    found = []
    for layer in weighted_layers(result.model):
        quantizer = quantizer_of(layer.weight)
        assert quantizer is not None
        if quantizer.grid.bits <= 4:
            found.append(quantizer.quantize(attribute(result.model, behind_quantizer(layer.weight))).integers())
    return found
