"""``halfstep quantize``, ``evaluate`` and ``export`` on a small network."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
import yaml
from typer.testing import Result

import halfstep as hs


def test_the_preprocessing_goes_into_the_recipe(quantized: Path) -> None:
    preprocessing = yaml.safe_load((quantized / "recipe.yaml").read_text())["preprocessing"]
    assert preprocessing["mean"] == [0.4, 0.5, 0.6]
    assert preprocessing["std"] == [0.2, 0.2, 0.2]


def test_labels_of_the_calibration_data_are_not_evaluated_on(finished_run: tuple[Path, Result]) -> None:
    folder, result = finished_run
    assert "Accuracy was not evaluated: pass --validation" in result.stdout
    assert "The labels in --data were not used." in result.stdout
    record = json.loads((folder / "result.json").read_text())
    assert (record["float"], record["simulated"], record["onnx"]) == (None, None, None)


def test_validation_fills_the_accuracy(here: Path, quantize: Callable[..., Result]) -> None:
    result = quantize("--validation", "images.npz", "--out", "run", "--json", "run/summary.json")
    assert "not evaluated" not in result.stdout
    record = json.loads(Path("run/summary.json").read_text())
    assert None not in (record["float"], record["simulated"], record["onnx"])


def test_inputs_that_the_result_is_judged_on(here: Path, halfstep: Callable[..., Result]) -> None:
    """An eighth of the data is held out; further inputs need no labels; a number of samples is taken as it is."""
    np.savez("other.npz", images=np.load("images.npz")["images"][:5])
    number = len(np.load("images.npz")["images"])
    for arguments, expected in (((), number // 8), (("--validation", "other.npz"), 5), (("--samples", str(number)), 0)):
        result = halfstep("quantize", "net.py:small", "--data", "images.npz", *arguments, "--out", "run", "--force")
        assert result.exit_code == 0, result.output
        assert "Accuracy was not evaluated" in result.stdout
        record = json.loads(Path("run/result.json").read_text())
        kept = expected or min(number, 32)
        assert (record["quality"]["num_samples"], record["quality"]["is_held_out"]) == (kept, expected > 0)
        assert f"On {kept} inputs that were {'not ' if expected else ''}calibrated on" in result.stdout


def test_types_on_the_command_line_replace_those_of_the_recipe(here: Path, quantize: Callable[..., Result]) -> None:
    quantize("--weights", "int4", "--activations", "int8", "--out", "run")
    layers = json.loads(Path("run/result.json").read_text())["layers"]
    assert "int4" in [layer["weight"]["grid"] for layer in layers if layer["weight"]]
    assert {layer["output"]["grid"] for layer in layers if layer["output"]} == {"int8"}


def test_groups_on_the_command_line(here: Path, quantize: Callable[..., Result], halfstep: Callable[..., Result]) -> None:
    """Of the linear layer alone; and in the file as it is asked for."""
    quantize("--weights", "int4", "--group-size", "16", "--out", "run")
    layers = json.loads(Path("run/result.json").read_text())["layers"]
    sizes = {layer["operator"]: layer["weight"]["group_size"] for layer in layers if layer["weight"]}
    assert sizes == {"conv2d": None, "linear": 16}
    for form, operator in (("matmul_nbits", b"MatMulNBits"), ("qdq", b"block_size")):
        result = halfstep("export", "run", "--groups", form, "--out", f"{form}.onnx")
        assert result.exit_code == 0, result.output
        assert operator in Path(f"{form}.onnx").read_bytes()
    assert b"MatMulNBits" not in Path("qdq.onnx").read_bytes()


def test_one_seed_gives_the_same_bytes(quantized: Path, quantize: Callable[..., Result]) -> None:
    quantize("--out", "again")
    for name in ("model.onnx", "recipe.yaml"):
        assert Path("again", name).read_bytes() == (quantized / name).read_bytes()


def test_statistics_of_another_run_give_the_same_network(quantized: Path, quantize: Callable[..., Result]) -> None:
    quantize("--out", "again", "--statistics", "run")
    assert Path("again/model.onnx").read_bytes() == (quantized / "model.onnx").read_bytes()


def test_force_replaces_a_run(quantized: Path, quantize: Callable[..., Result]) -> None:
    (quantized / "result.json").write_text("old")
    quantize("--out", "run", "--force")
    assert json.loads((quantized / "result.json").read_text())["seed"] == 3


def header_starts_like_a_pickle(path: str) -> bool:
    return Path(path).read_bytes()[:2] in (b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")


# A header of 640 bytes makes the file start with 80 02, as a pickle of protocol 2 does.
@pytest.mark.parametrize("padding", [0, 346])
def test_weights_from_a_state_dict(here: Path, halfstep: Callable[..., Result], padding: int) -> None:
    weights = {
        "0.weight": torch.zeros(4, 3, 3, 3),
        "0.bias": torch.ones(4),
        "4.weight": torch.tensor([[1.0] * 4, [0.0] * 4]),
        "4.bias": torch.zeros(2),
    }
    safetensors.torch.save_file(weights, "weights.safetensors", metadata={"padding": "x" * padding})
    assert header_starts_like_a_pickle("weights.safetensors") == bool(padding)
    # With these weights every answer is class 0, which is every second label.
    result = halfstep("evaluate", "net.py:small", "--data", "images.npz", "--state-dict", "weights.safetensors", "--json", "value.json")
    assert result.exit_code == 0, result.output
    assert json.loads(Path("value.json").read_text())["float"] == 50.0


def test_evaluate_a_run_gives_all_three(quantized: Path, halfstep: Callable[..., Result]) -> None:
    result = halfstep("evaluate", "run", "--data", "images.npz", "--json", "values.json")
    assert result.exit_code == 0, result.output
    values = json.loads(Path("values.json").read_text())
    assert set(values) == {"model", "data", "metric", "float", "simulated", "onnx", "integer"}
    for row, value in (("float", values["float"]), ("simulated", values["simulated"]), ("ONNX Runtime", values["onnx"])):
        assert any(row in line and f"{value:.2f} %" in line for line in result.stdout.splitlines())


def test_evaluate_an_exported_file_uses_the_preprocessing_of_its_run(quantized: Path, halfstep: Callable[..., Result]) -> None:
    assert halfstep("evaluate", "run", "--data", "images.npz", "--json", "run.json").exit_code == 0
    assert halfstep("evaluate", "run/model.onnx", "--data", "images.npz", "--json", "file.json").exit_code == 0
    values = json.loads(Path("file.json").read_text())
    assert values["onnx"] == json.loads(Path("run.json").read_text())["onnx"]
    assert (values["float"], values["simulated"]) == (None, None)


def test_evaluate_the_float_network_in_an_exported_file(quantized: Path, halfstep: Callable[..., Result]) -> None:
    result = halfstep("evaluate", "run/model.onnx", "--data", "images.npz", "--strip-quantization", "--json", "stripped.json")
    assert result.exit_code == 0, result.output
    values = json.loads(Path("stripped.json").read_text())
    assert values["float"] is not None
    assert values["onnx"] is None


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


def test_activations_that_are_always_zero_are_a_note_or_an_error_where_asked_for(halfstep: Callable[..., Result], here: Path) -> None:
    done = halfstep("quantize", "net.py:dead", "--data", "images.npz", "--out", "run")
    assert done.exit_code == 0, done.output
    assert "0 for every calibration input" in " ".join(done.stdout.split())
    recipe = hs.Recipe.load("int8").to_yaml().replace("strict: false", "strict: true")
    (here / "strict.yaml").write_text(recipe)
    refused = halfstep("quantize", "net.py:dead", "--data", "images.npz", "--recipe", "strict.yaml", "--out", "strict")
    message = " ".join(refused.output.split())
    assert refused.exit_code == 1 and "0 for every calibration input" in message
    assert "override" in message  # the way out
