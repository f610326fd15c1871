"""``halfstep quantize``, ``evaluate`` and ``export`` on a small network."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import safetensors.torch
import torch
import yaml
from typer.testing import Result

QUANTIZE = ("quantize", "net.py:small", "--data", "images.npz")


@pytest.fixture
def quantized(here: Path, halfstep: Callable[..., Result]) -> Path:
    """A run on the small network with a preprocessing of its own."""
    result = halfstep(*QUANTIZE, "--mean", "0.4,0.5,0.6", "--std", "0.2,0.2,0.2", "--out", "run")
    assert result.exit_code == 0, result.output
    return here / "run"


def test_the_preprocessing_goes_into_the_recipe(quantized: Path) -> None:
    preprocessing = yaml.safe_load((quantized / "recipe.yaml").read_text())["preprocessing"]
    assert preprocessing["mean"] == [0.4, 0.5, 0.6]
    assert preprocessing["std"] == [0.2, 0.2, 0.2]


def test_labels_of_the_calibration_data_are_not_evaluated_on(here: Path, halfstep: Callable[..., Result]) -> None:
    result = halfstep(*QUANTIZE, "--out", "run")
    assert result.exit_code == 0, result.output
    assert "Accuracy was not evaluated: pass --validation" in result.stdout
    assert "The labels in --data were not used." in result.stdout
    record = json.loads(Path("run/result.json").read_text())
    assert (record["float"], record["simulated"], record["onnx"]) == (None, None, None)


def test_validation_fills_the_accuracy(here: Path, halfstep: Callable[..., Result]) -> None:
    result = halfstep(*QUANTIZE, "--validation", "images.npz", "--out", "run", "--json", "summary.json")
    assert result.exit_code == 0, result.output
    assert "not evaluated" not in result.stdout
    record = json.loads(Path("summary.json").read_text())
    assert None not in (record["float"], record["simulated"], record["onnx"])


def test_types_on_the_command_line_replace_those_of_the_recipe(here: Path, halfstep: Callable[..., Result]) -> None:
    result = halfstep(*QUANTIZE, "--weights", "int4", "--out", "run")
    assert result.exit_code == 0, result.output
    grids = [layer["weight"]["grid"] for layer in json.loads(Path("run/result.json").read_text())["layers"] if layer["weight"]]
    assert "int4" in grids


def test_one_seed_gives_the_same_bytes(here: Path, halfstep: Callable[..., Result]) -> None:
    for name in ("first", "second"):
        assert halfstep(*QUANTIZE, "--samples", "8", "--seed", "3", "--out", name).exit_code == 0
    assert Path("first/model.onnx").read_bytes() == Path("second/model.onnx").read_bytes()


def test_statistics_of_another_run_give_the_same_network(quantized: Path, here: Path, halfstep: Callable[..., Result]) -> None:
    options = ("--mean", "0.4,0.5,0.6", "--std", "0.2,0.2,0.2", "--out", "again", "--statistics", "run")
    result = halfstep(*QUANTIZE, *options)
    assert result.exit_code == 0, result.output
    assert Path("again/model.onnx").read_bytes() == (quantized / "model.onnx").read_bytes()


def test_weights_from_a_state_dict(here: Path, halfstep: Callable[..., Result]) -> None:
    weights = {
        "0.weight": torch.zeros(4, 3, 3, 3),
        "0.bias": torch.ones(4),
        "4.weight": torch.tensor([[1.0] * 4, [0.0] * 4]),
        "4.bias": torch.zeros(2),
    }
    safetensors.torch.save_file(weights, "weights.safetensors")
    # With these weights every answer is class 0, which is every second label.
    result = halfstep("evaluate", "net.py:small", "--data", "images.npz", "--state-dict", "weights.safetensors", "--json", "value.json")
    assert result.exit_code == 0, result.output
    assert json.loads(Path("value.json").read_text())["float"] == 50.0


def test_evaluate_a_run_gives_all_three(quantized: Path, halfstep: Callable[..., Result]) -> None:
    result = halfstep("evaluate", "run", "--data", "images.npz", "--json", "values.json")
    assert result.exit_code == 0, result.output
    values = json.loads(Path("values.json").read_text())
    assert set(values) == {"model", "data", "metric", "float", "simulated", "onnx"}
    for row, value in (("float", values["float"]), ("simulated", values["simulated"]), ("ONNX Runtime", values["onnx"])):
        assert any(row in line and f"{value:.2f} %" in line for line in result.stdout.splitlines())


def test_evaluate_an_exported_file_uses_the_preprocessing_of_its_run(quantized: Path, halfstep: Callable[..., Result]) -> None:
    assert halfstep("evaluate", "run", "--data", "images.npz", "--json", "run.json").exit_code == 0
    assert halfstep("evaluate", "run/model.onnx", "--data", "images.npz", "--json", "file.json").exit_code == 0
    values = json.loads(Path("file.json").read_text())
    assert values["onnx"] == json.loads(Path("run.json").read_text())["onnx"]
    assert (values["float"], values["simulated"]) == (None, None)


def test_export_writes_the_same_file_again(quantized: Path, halfstep: Callable[..., Result]) -> None:
    result = halfstep("export", "run", "--format", "onnx", "--out", "again.onnx", "--json", "check.json")
    assert result.exit_code == 0, result.output
    assert Path("again.onnx").read_bytes() == (quantized / "model.onnx").read_bytes()
    check = json.loads(Path("check.json").read_text())
    assert check["max_code_difference"] <= check["bound"]


def test_export_replaces_a_file_only_with_force(quantized: Path, refuse: Callable[..., str], halfstep: Callable[..., Result]) -> None:
    Path("mine.onnx").write_text("mine")
    assert "--force" in refuse("export", "run", "--out", "mine.onnx")
    assert Path("mine.onnx").read_text() == "mine"
    assert halfstep("export", "run", "--out", "mine.onnx", "--force").exit_code == 0
    assert Path("mine.onnx").read_bytes() == (quantized / "model.onnx").read_bytes()


def test_a_network_saved_by_torch_export(here: Path, halfstep: Callable[..., Result]) -> None:
    network = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.ReLU(), torch.nn.Flatten(), torch.nn.Linear(4 * 36, 2)).eval()
    exported = torch.export.export(network, (torch.zeros(2, 3, 8, 8),), dynamic_shapes=({0: torch.export.Dim("batch", min=1)},))
    torch.export.save(exported, "net.pt2")
    result = halfstep("quantize", "net.pt2", "--data", "images.npz", "--out", "run")
    assert result.exit_code == 0, result.output
