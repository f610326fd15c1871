"""``halfstep finetune`` on a small network: from the float network, and from an earlier run."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import yaml
from typer.testing import Result

import halfstep as hs

TRAIN = ("--data", "images.npz", "--recipe", "lsq-w4a4", "--epochs", "2", "--batch-size", "8", "--samples", "8")


def finetune_of(folder: str) -> dict[str, object]:
    step = yaml.safe_load(Path(folder, "recipe.yaml").read_text())["steps"][-1]
    return dict(step["finetune"])


def test_a_float_network_is_quantized_and_trained(here: Path, halfstep: Callable[..., Result]) -> None:
    options = ("--learning-rate", "0.002", "--flip", "--shift", "1", "--warp", "0.5", "--requantization", "fixed_point_32")
    result = halfstep("finetune", "net.py:small", *TRAIN, *options, "--validation", "images.npz", "--mean", "0.4,0.5,0.6", "--out", "run")
    assert result.exit_code == 0, result.output
    assert "Epoch 2 of 2: loss" in result.stderr and "top-1" in result.stderr
    step = finetune_of("run")
    given = {"epochs": 2.0, "batch_size": 8, "learning_rate": 0.002, "flip": True, "shift": 1, "warp": 0.5}
    assert {name: step[name] for name in given} == given
    record = json.loads(Path("run/result.json").read_text())
    assert None not in (record["float"], record["simulated"], record["onnx"], record["integer"])
    assert all(operator["num_differing"] == 0 for operator in record["program"]["operators"])
    assert {path.name for path in Path("run").iterdir()} >= {"model.onnx", "program.safetensors", "report.html"}
    assert not Path("run.checkpoint").exists()


def test_several_networks_teach(here: Path, halfstep: Callable[..., Result]) -> None:
    result = halfstep("finetune", "net.py:small", *TRAIN, "--teacher", "net.py:small", "--teacher", "net.py:small", "--out", "run")
    assert result.exit_code == 0, result.output
    assert any("the mean of several networks" in note for note in json.loads(Path("run/result.json").read_text())["notes"])


def test_a_run_is_trained_from_where_it_stands(here: Path, halfstep: Callable[..., Result], quantize: Callable[..., Result]) -> None:
    quantize("--recipe", "w4a8", "--out", "run")
    result = halfstep("finetune", "run", *TRAIN, "--out", "trained")
    assert result.exit_code == 0, result.output
    assert "Accuracy was not evaluated" in result.stdout
    recipe = yaml.safe_load(Path("trained/recipe.yaml").read_text())
    assert recipe["scheme"]["activations"]["type"] == "uint8"  # the grids of the run, not those of lsq-w4a4
    assert recipe["preprocessing"]["mean"] == [0.4, 0.5, 0.6]
    assert list(recipe["steps"][-1]) == ["finetune"]


def test_levels_that_are_no_grid_leave_a_run_without_a_file_for_runtimes(here: Path, halfstep: Callable[..., Result]) -> None:
    recipe = yaml.safe_load(Path(hs.__file__).with_name("recipes").joinpath("lsq-w4a4.yaml").read_text())
    recipe["steps"][-1] = {"finetune": {"weights": "lq_nets", "activations": "lq_nets"}}
    Path("own.yaml").write_text(yaml.safe_dump(recipe))
    result = halfstep("finetune", "net.py:small", *TRAIN, "--recipe", "own.yaml", "--validation", "images.npz", "--out", "run")
    assert result.exit_code == 0, result.output
    assert "No ONNX file: levels that are no grid" in " ".join(result.stdout.split())
    assert not Path("run/model.onnx").exists() and Path("run/report.html").exists()
    again = halfstep("evaluate", "run", "--data", "images.npz")
    assert again.exit_code == 0, again.output
    refused = halfstep("export", "run", "--format", "c", "--out", "net_c")
    assert refused.exit_code == 1
    assert "by lq_nets. Train with another quantizer, such as lsq" in " ".join(refused.stderr.split())


def test_what_does_not_train_is_refused(here: Path, halfstep: Callable[..., Result]) -> None:
    result = halfstep("finetune", "net.py:small", "--data", "images.npz", "--recipe", "int8", "--out", "run")
    assert result.exit_code == 1
    assert "The recipe 'int8' has no step 'finetune'" in result.stderr
    result = halfstep("finetune", "net.py:small", "--data", "images.npz", "--recipe", "lsq-w4a4", "--out", "run")
    assert result.exit_code == 1
    assert "16 samples, fewer than a batch of 128" in " ".join(result.stderr.split())
    assert not Path("run").exists()
