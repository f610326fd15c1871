"""`quantize`: the same seed gives the same bytes, statistics are used again, the user's model stays as it was."""

from __future__ import annotations

import contextlib
import copy
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import halfstep as hs
import zoo
from halfstep.errors import CalibrationError, DataError, ModelError, RecipeError
from halfstep.graph.run import run
from halfstep.workflow.result import Result


def quantized(seed: int = 0, **options: object) -> Result:
    return hs.quantize(zoo.ZOO["two_inputs"].model(), zoo.calibration_of("two_inputs"), seed=seed, **options)


def test_one_seed_one_model(tmp_path: Path) -> None:
    """Every byte of the model, its graph and its ONNX file, from two runs that share nothing."""
    for name in ("first", "second"):
        result = hs.quantize(
            zoo.ZOO["residual"].model(), torch.randn(40, 3, 8, 8, generator=torch.Generator().manual_seed(1)), samples=24, seed=5
        )
        result.save(tmp_path / name)
        hs.export.onnx(result, tmp_path / name / "model.onnx")
    for file in ("model.safetensors", "model.json", "model.onnx", "recipe.yaml", "statistics.safetensors", "samples.safetensors"):
        assert (tmp_path / "first" / file).read_bytes() == (tmp_path / "second" / file).read_bytes(), file


def test_another_seed_another_choice_of_samples() -> None:
    x = torch.randn(200, 10, generator=torch.Generator().manual_seed(1))
    first, second = (hs.quantize(zoo.ZOO["bias_free"].model(), x, samples=8, seed=seed) for seed in (0, 1))
    assert not torch.equal(first.samples[0], second.samples[0])
    assert first.statistics.num_samples == second.statistics.num_samples == 8


def test_a_saved_recipe_gives_the_same_model(tmp_path: Path) -> None:
    first = quantized(recipe="w4a8")
    (tmp_path / "mine.yaml").write_text(first.recipe.to_yaml())
    second = quantized(recipe=tmp_path / "mine.yaml")
    assert all(torch.equal(a, b) for a, b in zip(first.model.state_dict().values(), second.model.state_dict().values(), strict=True))


@pytest.mark.parametrize("name", zoo.NAMES)
def test_every_network_of_the_zoo(name: str) -> None:
    """8 bits lose little: each tensor errs by half a step of 1/255 of its range, some ten of them in a row stay below 10 %."""
    result, inputs = zoo.quantized(name), zoo.ZOO[name].inputs(seed=6)
    for output, expected in zip(zoo.leaves(run(result.model, inputs)), zoo.eager(name, inputs), strict=True):
        assert zoo.relative(output, expected) <= 0.1
    assert result.record.layers and result.record.bytes["quantized"] < result.record.bytes["float"]
    assert result.record.num_calibration_samples == zoo.NUM_SAMPLES


def test_unknown_operators_are_named() -> None:
    found = {operator.name: operator.reason for operator in zoo.quantized("float_operators").record.float_operators}
    assert set(found) == {"norm", "gelu", "cumsum"}
    assert all("no integer form" in reason for reason in found.values())
    strange = hs.quantize(Strange(), torch.randn(8, 3, 6, 6)).record.float_operators
    assert [operator.name for operator in strange if "unknown to halfstep" in operator.reason] == ["erfinv"]


class Strange(nn.Module):
    """Something that no table of operators has."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return torch.erfinv(self.conv(x).sigmoid() * 0.9)


def test_notes_of_capture_and_steps_reach_the_record() -> None:
    assert any("batches of 2 only" in note for note in zoo.quantized("static_batch").record.notes)
    assert any("'bn' stays in float" in note for note in zoo.quantized("bn_twice").record.notes)


def test_the_model_is_left_as_it_was() -> None:
    model = zoo.ZOO["residual"].model()
    model.train()
    model.bn2.eval()
    state, modes = copy.deepcopy(model.state_dict()), [module.training for module in model.modules()]
    result = hs.quantize(model, zoo.calibration_of("residual"))
    assert all(torch.equal(state[key], value) for key, value in model.state_dict().items())
    assert [module.training for module in model.modules()] == modes
    mine = {tensor.data_ptr() for tensor in model.state_dict().values()}
    assert not mine & {tensor.data_ptr() for tensor in result.model.state_dict().values() if tensor.numel()}


def test_statistics_are_used_again(tmp_path: Path) -> None:
    first = quantized()
    first.save(tmp_path / "run")
    for given in (first.statistics, tmp_path / "run", str(tmp_path / "run"), tmp_path / "run" / "statistics.safetensors"):
        second = quantized(statistics=given)
        assert all(torch.equal(a, b) for a, b in zip(first.model.state_dict().values(), second.model.state_dict().values(), strict=True))
        assert "statistics" not in second.record.seconds["phases"] and "statistics" in first.record.seconds["phases"]


def test_statistics_with_another_recipe() -> None:
    result = quantized(recipe="w4a8", statistics=quantized().statistics)
    fresh = quantized(recipe="w4a8")
    assert all(torch.equal(a, b) for a, b in zip(result.model.state_dict().values(), fresh.model.state_dict().values(), strict=True))


def test_statistics_of_another_network_are_refused() -> None:
    statistics = quantized().statistics
    model = zoo.ZOO["two_inputs"].model()
    with torch.no_grad():
        model.left.weight[0, 0] += 0.1
    with pytest.raises(CalibrationError, match="belong to another network"):
        hs.quantize(model, zoo.calibration_of("two_inputs"), statistics=statistics)


def test_statistics_behind_other_weights_are_refused() -> None:
    """Equalization changes what tensors look like; the captured network is the same."""
    torch.manual_seed(0)
    model, data = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3)), torch.randn(16, 4)
    plain, equalized = (hs.quantize(model, data, recipe=recipe).statistics for recipe in ("int8", "dfq"))
    hs.quantize(model, data, recipe="dfq", statistics=equalized)
    for recipe, statistics in (("int8", equalized), ("dfq", plain)):
        with pytest.raises(CalibrationError, match="gathered behind other steps"):
            hs.quantize(model, data, recipe=recipe, statistics=statistics)


def test_a_network_that_takes_one_batch_size_only() -> None:
    """Neither 1 nor 2 samples: it must be recorded on what the data give."""

    class Four(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(6, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.fc(x.reshape(4, 6))

    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(torch.randn(16, 2, 3)), batch_size=4)
    result = hs.quantize(Four(), loader)
    assert result.model.meta["batch_size"] == 4


def test_a_network_for_single_samples() -> None:
    class Single(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(6, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.fc(x.reshape(1, 6))

    result = hs.quantize(Single(), torch.randn(16, 2, 3))
    assert result.model.meta["batch_size"] == 1


def test_an_exported_program() -> None:
    inputs = zoo.ZOO["residual"].inputs()
    program = torch.export.export(zoo.ZOO["residual"].model(), inputs, dynamic_shapes=({0: torch.export.Dim("n", min=1)},))
    result = hs.quantize(program, zoo.calibration_of("residual"))
    assert zoo.relative(run(result.model, inputs), run(zoo.quantized("residual").model, inputs)) <= 1e-6  # the same operators and weights


def test_a_single_calibration_sample() -> None:
    result = hs.quantize(zoo.ZOO["bias_free"].model(), torch.randn(1, 10))
    assert result.statistics.num_samples == 1


def test_progress_is_told() -> None:
    seen: list[str] = []
    quantized(progress=lambda phase, done, total: seen.append(phase))
    assert list(dict.fromkeys(seen)) == [
        "capture",
        "fold_batch_norm",
        "fold_factors",
        "place_quantizers",
        "statistics",
        "calibrate",
        "round",
        "measure",
    ]


def test_a_quantized_model_trains() -> None:
    result = hs.quantize(zoo.ZOO["residual"].model(), zoo.calibration_of("residual"))
    result.model.train()
    result.model(*zoo.ZOO["residual"].inputs()).square().mean().backward()
    gradients = [parameter.grad for parameter in result.model.parameters()]
    assert all(gradient is not None and bool(torch.isfinite(gradient).all()) for gradient in gradients)
    assert any(bool(gradient.abs().max() > 0) for gradient in gradients)


def test_what_does_not_fit() -> None:
    model = zoo.ZOO["residual"].model()
    with pytest.raises(DataError):
        hs.quantize(model, torch.empty(0, 3, 8, 8))
    with pytest.raises(DataError):
        hs.quantize(model, torch.full((4, 3, 8, 8), torch.nan))
    with pytest.raises((DataError, ModelError)):
        hs.quantize(model, torch.randn(4, 8, 8, 3))
    with pytest.raises((DataError, ModelError)):
        hs.quantize(model, (torch.rand(4, 3, 8, 8) * 255).to(torch.int64))
    with pytest.raises(RecipeError, match="Did you mean 'int8'"):
        hs.quantize(model, zoo.calibration_of("residual"), "int88")


def test_a_pattern_that_matches_nothing_is_not_passed_over() -> None:
    recipe = hs.Recipe.load("int8")
    override = hs.Recipe.parse(
        {"name": "x", "steps": [], "scheme": {"overrides": [{"pattern": "lefd", "weights": "int4"}]}}
    ).scheme.overrides
    changed = recipe.model_copy(update={"scheme": recipe.scheme.model_copy(update={"overrides": override})})
    with contextlib.suppress(RecipeError):  # an error that names it is as good as a note
        assert any("lefd" in note for note in quantized(recipe=changed).record.notes)
