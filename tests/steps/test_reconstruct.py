"""Block reconstruction never makes a unit worse, learns what it is told to learn, and goes on where it was interrupted."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import halfstep as hs
import zoo
from halfstep.graph.edges import activation_quantizers
from halfstep.graph.operators import weighted_layers
from halfstep.graph.run import cut, observe
from halfstep.graph.sensitivity import squared_slopes
from halfstep.graph.units import find_units
from halfstep.recipes import Recipe
from halfstep.steps import Reconstruct, Round
from halfstep.steps.checkpoint import Checkpoint
from halfstep.workflow.result import Result

QUICK: dict[str, Any] = {"num_iterations": 60, "learning_rate": 0.05, "step_learning_rate": 0.01}


def recipe(*steps: Any, weights: str = "int3", activations: str = "uint4") -> Recipe:
    scheme = {"weights": {"type": weights}, "activations": {"type": activations}}
    before = ["fold_batch_norm", "place_quantizers", "calibrate", {"round": {"method": "nearest"}}]
    return Recipe.model_validate({"name": "test", "scheme": scheme, "steps": [*before, *steps]})


def quantized(network: str, *steps: Any, **options: Any) -> Result:
    return hs.quantize(zoo.ZOO[network].model(), zoo.calibration_of(network), recipe(*steps), **options)


@functools.cache
def plain() -> Result:
    """Rounded to nearest."""
    return quantized("residual")


@functools.cache
def learned() -> Result:
    """And reconstructed with the options above."""
    return quantized("residual", {"reconstruct": QUICK})


def output_errors(result: Result, network: str) -> list[float]:
    """Of each unit's output, against the float network, on the calibration data."""
    graph, exact = result.model, result.float_model
    units = find_units(graph, "block")
    seen: dict[str, list[Tensor]] = {unit.output.name: [] for unit in units}
    twins = dict(zip(graph.graph.nodes, exact.graph.nodes, strict=True))
    part, _ = cut(graph, zoo.ZOO[network].inputs(zoo.NUM_SAMPLES))[0]
    observe(graph, part, {unit.output for unit in units}, lambda node, tensor: (seen[node.name].append(tensor), tensor)[1])
    back = {twins[unit.output]: unit.output for unit in units}
    observe(exact, part, set(back), lambda node, tensor: (seen[back[node].name].append(tensor), tensor)[1])
    return [float((found - wanted).square().mean()) for found, wanted in seen.values()]


@pytest.mark.parametrize("unit", ["block", "layer"])
@pytest.mark.parametrize("network", ["residual", "attention", "concat", "transposed", "shared", "conv1d", "static_batch", "two_inputs"])
def test_every_kind_of_network(network: str, unit: str) -> None:
    result = quantized(network, {"reconstruct": {**QUICK, "unit": unit, "num_iterations": 10}})
    Round().ensures(result.model)
    assert any("Reconstruction lowered the error of" in note for note in result.record.notes)


def test_lowers_the_error_of_the_units() -> None:
    """Those of all units with the outputs that reach them; the first meets the same input before and after."""
    before = output_errors(plain(), "residual")
    after = output_errors(quantized("residual", {"reconstruct": {**QUICK, "num_iterations": 200, "drop": 0.0}}), "residual")
    assert after[0] < before[0]
    assert sum(after) < 0.9 * sum(before)


def test_what_is_worse_is_not_kept() -> None:
    """A step size that destroys everything leaves everything as it was."""
    before, after = plain(), quantized("residual", {"reconstruct": {**QUICK, "step_learning_rate": 100.0}})
    assert all("lowered the error of 0 of" in note for note in after.record.notes if "Reconstruction" in note)
    for (name, old), (_, new) in zip(before.model.state_dict().items(), after.model.state_dict().items(), strict=True):
        assert torch.equal(old, new), name


def test_steps_are_learned_or_not() -> None:
    before, fixed = plain().model, quantized("residual", {"reconstruct": {**QUICK, "learn_activation_steps": False}}).model
    for learns, after in ((True, learned().model), (False, fixed)):
        pairs = [(before.get_submodule(path).scale, after.get_submodule(path).scale) for path in activation_quantizers(after)]
        assert any(not torch.equal(old, new) for old, new in pairs) is learns


def test_biases_and_scales_of_weights_stay() -> None:
    before, after = plain().model, learned().model
    changed = 0
    for old, new in zip(weighted_layers(before), weighted_layers(after), strict=True):
        assert torch.equal(before.get_submodule(str(old.weight.target)).scale, after.get_submodule(str(new.weight.target)).scale)
    for name, parameter in before.named_parameters():
        if name.endswith("bias"):
            assert torch.equal(parameter, after.get_parameter(name))
        else:
            changed += int((parameter != after.get_parameter(name)).sum())
    assert changed


@pytest.mark.parametrize(
    "options",
    [{"drop": 0.0}, {"softness": 0.1}, {"fisher": True}, {"regularization": 1.0}, {"learning_rate": 0.02}, {"unit": "layer"}],
    ids=str,
)
def test_every_option_has_a_say(options: dict[str, Any]) -> None:
    first, other = (result.model.state_dict() for result in (learned(), quantized("residual", {"reconstruct": {**QUICK, **options}})))
    assert any(not torch.equal(first[name], other[name]) for name in first)


def test_the_same_seed_gives_the_same_network() -> None:
    first, again, other = (quantized("residual", {"reconstruct": QUICK}, seed=seed).model.state_dict() for seed in (0, 0, 1))
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert any(not torch.equal(first[name], other[name]) for name in first)


def test_goes_on_where_it_was_interrupted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Checkpoint, "clear", lambda self: None)
    first = quantized("residual", {"reconstruct": QUICK}, checkpoint=tmp_path / "checkpoint").model.state_dict()

    def refuse(*_: Any) -> Any:
        raise AssertionError("learned again what was saved")

    monkeypatch.setattr(Reconstruct, "_solved", refuse)
    again = quantized("residual", {"reconstruct": QUICK}, checkpoint=tmp_path / "checkpoint", resume=True).model.state_dict()
    assert all(torch.equal(first[name], again[name]) for name in first)


def test_fisher_information_by_hand() -> None:
    """A linear layer's logits z: dL/dz = softmax(z) - one-hot of the largest; squared, over the mean of all squares."""
    graph = zoo.quantized("linear_bn").float_model
    (output,) = (node for node in graph.graph.nodes if node.op == "output")
    node = output.all_input_nodes[0]
    x = zoo.ZOO["linear_bn"].inputs(5)
    logits = graph(*x).detach()
    slope = torch.softmax(logits, 1) - torch.nn.functional.one_hot(logits.argmax(1), logits.shape[1])
    torch.testing.assert_close(squared_slopes(graph, node, [x]), slope.square() / slope.square().mean())
