"""Weights with a scale for each group of inputs, through the whole pipeline: which layers get them, and what every later part says."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import yaml
from torch import Tensor, nn

import halfstep as hs
import zoo
from halfstep.errors import LoweringError, RecipeError
from halfstep.graph.edges import behind_quantizer, quantizer_of
from halfstep.graph.edit import attribute
from halfstep.graph.operators import weighted_layers
from halfstep.quantizers import UniformQuantizer
from halfstep.ranges import RANGES
from halfstep.report import words
from halfstep.rounding import ROUNDINGS


class Network(nn.Module):
    """A convolution and two linear layers on [N, T, C], of 24 and of 40 inputs: neither a multiple of 16."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.up, self.down = nn.Conv1d(4, 24, 3, padding=1), nn.Linear(24, 40), nn.Linear(40, 6)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x).transpose(1, 2)
        found: Tensor = self.down(torch.relu(self.up(x)))
        return found


def network() -> nn.Module:
    torch.manual_seed(5)
    return Network().eval()


X = torch.randn(24, 4, 5, generator=torch.Generator().manual_seed(1))
FLOAT = {"type": "float"}


def quantized(method: object = "nearest", range_: str = "mse", activations: dict[str, object] = FLOAT, **weights: object) -> hs.Result:
    scheme = {"weights": {"type": "int4", "group_size": 16, **weights}, "activations": activations}
    steps = ["fold_batch_norm", "place_quantizers", {"calibrate": {"weights": range_}}, {"round": {"method": method}}]
    return hs.quantize(network(), X, hs.Recipe.parse({"name": "groups", "scheme": scheme, "steps": steps}))


def by_name(result: hs.Result) -> dict[str, UniformQuantizer]:
    found = {layer.name: quantizer_of(layer.weight) for layer in weighted_layers(result.model)}
    assert all(isinstance(quantizer, UniformQuantizer) for quantizer in found.values())
    return found  # type: ignore[return-value]


def error(result: hs.Result) -> float:
    """Of the outputs, relative to their size."""
    with torch.no_grad():
        exact = network()(X)
        return float((result.model(X) - exact).square().mean() / exact.square().mean())


def test_linear_layers_get_groups_and_others_do_not() -> None:
    found = by_name(quantized())
    assert {name: tuple(quantizer.scale.shape) for name, quantizer in found.items()} == {"stem": (24,), "up": (40, 2), "down": (6, 3)}
    assert found["stem"].grid.group_size is None and found["up"].grid.group_size == 16


@pytest.mark.parametrize("range_", list(RANGES))
@pytest.mark.parametrize("symmetric", [True, False])
def test_every_range(range_: str, symmetric: bool) -> None:
    """A group of 16 fits its own values better than a whole row of 24 or 40."""
    fine, coarse = (quantized("nearest", range_, symmetric=symmetric, group_size=size) for size in (16, 0))
    assert bool(torch.isfinite(fine.model(X)).all())
    if range_ in ("min_max", "mse", "output_mse"):
        assert error(fine) < error(coarse)


def test_output_mse_beats_mse_on_an_asymmetric_grid() -> None:
    """Its zero points are stored, too."""
    for size in (16, 0):
        plain, refined = (quantized("nearest", range_, symmetric=False, group_size=size) for range_ in ("mse", "output_mse"))
        assert error(refined) < 0.8 * error(plain)


@pytest.mark.parametrize("method", list(ROUNDINGS))
@pytest.mark.parametrize("symmetric", [True, False])
def test_every_rounding(method: str, symmetric: bool) -> None:
    """`Round.ensures` has seen that every weight lies on its grid."""
    result = quantized(zoo.quick_rounding(method).full_spec(), symmetric=symmetric)
    for layer in weighted_layers(result.model):
        quantizer, weight = quantizer_of(layer.weight), attribute(result.model, behind_quantizer(layer.weight))
        assert quantizer is not None
        codes = quantizer.quantize(weight).codes
        assert int(codes.min()) >= -8 and int(codes.max()) <= 7
    assert error(result) < (0.2 if method in ("floor", "ceil", "stochastic") else 0.03)


def test_methods_that_look_at_data_beat_nearest_with_groups_too() -> None:
    nearest = error(quantized("nearest", type="int3"))
    for method in ("gptq", "coordinate_descent", "lattice"):
        assert error(quantized(method, type="int3")) < nearest


def test_an_override_gives_a_layer_other_groups() -> None:
    overrides = [{"pattern": "up", "group_size": 0}, {"pattern": "down", "group_size": 32, "weights": "int2"}]
    scheme = {"weights": {"type": "int4", "group_size": 16}, "activations": FLOAT, "overrides": overrides}
    recipe = hs.Recipe.parse({"name": "mixed", "scheme": scheme, "steps": hs.Recipe.load("nearest-w4").steps})
    found = by_name(hs.quantize(network(), X, recipe))
    assert tuple(found["up"].scale.shape) == (40,)
    assert tuple(found["down"].scale.shape) == (6, 2) and found["down"].grid.bits == 2


@pytest.mark.parametrize("size", [8, 20, -16])
def test_a_group_size_that_no_kernel_has(size: int) -> None:
    with pytest.raises(RecipeError, match=f"16, 32, 64 ... 1,048,576 inputs .a power of two., or 0 for no groups, not {size}"):
        hs.Recipe.load("nearest-w4").with_group_size(size)


def test_groups_need_channels() -> None:
    with pytest.raises(RecipeError, match="group_size needs per_channel: true"):
        quantized(per_channel=False)
    scheme = {"weights": {"type": "int4", "per_channel": False}, "overrides": [{"pattern": "up", "group_size": 16}]}
    recipe = hs.Recipe.parse({"name": "no channels", "scheme": scheme, "steps": hs.Recipe.load("int8").steps})
    with pytest.raises(RecipeError, match="set per_channel where group_size is set"):
        hs.quantize(network(), X, recipe)


def test_with_group_size_changes_nothing_else() -> None:
    recipe = hs.Recipe.load("lattice-w4")
    grouped = recipe.with_group_size(64)
    assert grouped.scheme.weights.group_size == 64
    assert grouped.with_group_size(0) == recipe
    assert hs.Recipe.parse(yaml.safe_load(grouped.to_yaml())).scheme == grouped.scheme


def test_a_saved_run_has_the_same_groups(tmp_path: Path) -> None:
    result = quantized("lattice", symmetric=False)
    result.save(tmp_path / "run")
    assert torch.equal(hs.load(tmp_path / "run").model(X), result.model(X))


def test_quantized_activations_in_front_of_groups() -> None:
    """The simulation has both; the bias stays in float, no integer program exists, and the report says why."""
    result = quantized(activations={"type": "uint8"})
    layers = {layer.name: layer for layer in weighted_layers(result.model)}
    assert quantizer_of(layers["up"].input) is not None and quantizer_of(layers["up"].bias) is None
    assert quantizer_of(layers["stem"].bias) is not None
    reasons = {operator.name: operator.reason for operator in result.record.float_operators}
    assert {name for name, reason in reasons.items() if reason == "its weight has a scale for each group of inputs"} == {"up", "down"}
    with pytest.raises(LoweringError, match="a scale for each group of inputs"):
        hs.lower(result)


@pytest.mark.parametrize("mode", ["single_shift", "double_shift"])
def test_shifts_leave_groups_alone(mode: str) -> None:
    scheme = {"weights": {"type": "int4", "group_size": 16}, "requantization": mode}
    recipe = hs.Recipe.parse({"name": mode, "scheme": scheme, "steps": hs.Recipe.load("int8").steps})
    plain = hs.Recipe.parse({"name": "plain", "scheme": scheme | {"requantization": "fixed_point_32"}, "steps": recipe.steps})
    shifted, free = (by_name(hs.quantize(network(), X, chosen)) for chosen in (recipe, plain))
    assert torch.equal(shifted["up"].scale, free["up"].scale)
    assert not torch.equal(shifted["stem"].scale, free["stem"].scale)


def test_steps_behind_round_keep_groups() -> None:
    steps = [*hs.Recipe.load("nearest-w4").steps, "restore_weight_statistics", "correct_bias"]
    scheme = {"weights": {"type": "int3", "group_size": 16}, "activations": FLOAT}
    result = hs.quantize(network(), X, hs.Recipe.parse({"name": "restored", "scheme": scheme, "steps": steps}))
    for layer in weighted_layers(result.model):
        exact = dict(network().named_parameters())[f"{layer.name}.weight"].flatten(1).double()
        rounded = layer_weight(result, layer.name).flatten(1).double()
        torch.testing.assert_close(rounded.std(1), exact.std(1), rtol=1e-5, atol=0)  # float32 scales


def layer_weight(result: hs.Result, name: str) -> Tensor:
    layer = next(layer for layer in weighted_layers(result.model) if layer.name == name)
    return attribute(result.model, behind_quantizer(layer.weight))


@pytest.mark.parametrize("symmetric", [True, False])
def test_bytes_and_words_of_the_report(symmetric: bool) -> None:
    """Of 40 x 24 codes: 480 bytes, 80 scales of 4 bytes, 80 zero points of half a byte where there are any; the bias stays in float."""
    record = quantized(symmetric=symmetric).record
    row = next(row for row in record.layers if row.name == "up")
    assert row.bytes_quantized == 480 + 80 * 4 + (0 if symmetric else 40) + 40 * 4
    assert row.weight is not None
    assert row.weight.group_size == 16 and words.grid_name(row.weight) == "int4 per 16"
