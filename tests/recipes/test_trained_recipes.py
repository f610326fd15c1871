"""Shipped recipes that train, a step or two each, all the way to an integer program."""

from __future__ import annotations

import pytest
import torch

import halfstep as hs
from halfstep.demo.network import digits_network
from halfstep.errors import ExportError, LoweringError
from halfstep.export.mark import mark
from halfstep.graph.edges import behind_quantizer, quantizer_of
from halfstep.graph.edit import attribute
from halfstep.graph.operators import weighted_layers
from halfstep.graph.run import observe


@pytest.mark.parametrize(
    ("name", "levels"),
    [
        ("pact-sawb-w4a4", set(range(-7, 8))),
        ("faq-w4a4", set(range(-7, 8))),
        ("sat-w1a8", {-1, 1}),
        ("binary-w1a8", {-1, 1}),
        ("binary-w1a1", {-1, 1}),
    ],
    ids=lambda x: str(x)[:14],
)
def test_it_trains_and_its_integers_are_its_simulation(name: str, levels: set[int]) -> None:
    data = hs.load_data("digits:calibration")
    result = hs.finetune(digits_network(), data, name, options={"epochs": 0.5, "batch_size": 64})
    hs.lower(result)
    program = result.record.program
    assert program is not None
    assert all(operator.num_differing <= 1e-4 * operator.num_codes for operator in program.operators)  # ties, by one code
    assert all(operator.max_difference <= 1 for operator in program.operators)
    codes = {int(code) for codes in weight_codes(result) for code in codes.unique()}
    assert codes <= levels and {min(levels), max(levels)} <= codes


def test_activations_of_one_bit_are_0_or_1_in_the_program() -> None:
    data = hs.load_data("digits:calibration")
    result = hs.finetune(digits_network(), data, "binary-w1a1", options={"epochs": 0.5, "batch_size": 64})
    nodes = [node for node in result.model.graph.nodes if (quantizer := quantizer_of(node)) is not None and quantizer.grid.bits == 2]
    seen: list[set[int]] = []

    def see(node: torch.fx.Node, x: torch.Tensor) -> torch.Tensor:
        seen.append({int(code) for code in quantizer_of(node).quantize(x).codes.unique()})  # type: ignore[union-attr]
        return x

    activations = {node for node in nodes if behind_quantizer(node).op != "get_attr"}
    observe(result.model, next(iter(data.batches(64))).inputs, activations, see)
    assert len(seen) > 4
    assert all(codes <= {0, 1} for codes in seen) and {0, 1} in seen


def test_signs_of_activations_stay_in_the_simulation() -> None:
    options = {"epochs": 0.5, "batch_size": 64, "activations": {"binary": {"activations": "signs"}}}
    result = hs.finetune(digits_network(), hs.load_data("digits:calibration"), "binary-w1a1", options=options)
    with pytest.raises(LoweringError, match=r"no integer form: .*, by binary\. Train with its option activations at zero_one"):
        hs.lower(result)
    with pytest.raises(ExportError, match=r"have no form in ONNX\. Train with its option activations at zero_one"):
        mark(result.model)


def weight_codes(result: hs.Result) -> list[torch.Tensor]:
    """Of the layers between the first and the last."""
    found = []
    for layer in weighted_layers(result.model):
        quantizer = quantizer_of(layer.weight)
        assert quantizer is not None
        if quantizer.grid.bits <= 4:
            found.append(quantizer.quantize(attribute(result.model, behind_quantizer(layer.weight))).integers())
    return found
