"""``halfstep demo``: the real pipeline, and the commands it proposes."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable
from pathlib import Path

import onnxruntime
import pytest
from typer.testing import Result

from halfstep.cli.demo import next_commands


def test_it_leaves_a_complete_run(finished_demo: tuple[Path, Result]) -> None:
    folder, result = finished_demo
    assert {"model.onnx", "report.html", "result.json", "recipe.yaml"} <= {path.name for path in folder.iterdir()}
    assert list(folder.parent.iterdir()) == [folder]
    assert str(folder / "report.html") in result.stdout
    onnxruntime.InferenceSession(folder / "model.onnx", providers=["CPUExecutionProvider"])


def test_result_json_holds_what_is_promised(finished_demo: tuple[Path, Result]) -> None:
    record = json.loads((finished_demo[0] / "result.json").read_text())
    # The smallest networks for these digits reach 97 %; 500 test images make one image 0.2 points.
    assert record["float"] > 95
    # Three standard errors of a difference in which about 1 % of 500 answers change: 3 * sqrt(0.01 / 500) = 1.3 points.
    assert abs(record["simulated"] - record["float"]) < 1.4
    assert abs(record["onnx"] - record["simulated"]) < 1.4
    assert 0 < record["bytes"]["quantized"] < record["bytes"]["float"]
    assert record["seconds"]["wall"] > 0
    assert record["seconds"]["cpu"] > 0
    assert record["peak_rss_bytes"] > 2**20
    check = record["export_check"]
    assert check["max_code_difference"] <= check["bound"]
    assert 0 <= check["top1_agreement"] <= 1
    assert {"torch", "onnxruntime", "halfstep"} <= set(record["versions"])
    assert record["seed"] == 0
    assert all(layer["name"] for layer in record["layers"])
    assert any(layer["sqnr_db"] is not None for layer in record["layers"])


def test_the_table_has_the_three_rows(finished_demo: tuple[Path, Result]) -> None:
    lines = finished_demo[1].stdout.splitlines()
    record = json.loads((finished_demo[0] / "result.json").read_text())
    for row, value in (("float", record["float"]), ("simulated", record["simulated"]), ("ONNX Runtime", record["onnx"])):
        assert any(line.strip().startswith(row) and f"{value:.2f} %" in line for line in lines), row
    assert all(len(line) <= 120 for line in lines if not line.startswith("  "))


def test_the_three_commands_it_ends_with_work(
    finished_demo: tuple[Path, Result], demo_folder: Path, halfstep: Callable[..., Result]
) -> None:
    last = finished_demo[1].stdout.rstrip().splitlines()[-3:]
    proposed = next_commands("halfstep", finished_demo[0])
    assert [line.split()[-1] for line in last] == [command.split()[-1] for command in proposed]
    for command in next_commands("halfstep", Path(demo_folder.name)):
        result = halfstep(*shlex.split(command)[1:])
        assert result.exit_code == 0, f"{command}\n{result.output}"


def test_a_second_run_needs_force(demo_folder: Path, refuse: Callable[..., str], halfstep: Callable[..., Result]) -> None:
    assert "--force" in refuse("demo", "--out", demo_folder.name)
    assert halfstep("demo", "--out", demo_folder.name, "--force").exit_code == 0


def test_json_is_the_result_of_the_run(here: Path, halfstep: Callable[..., Result]) -> None:
    assert halfstep("demo", "--out", "run", "--json", "run/copy.json").exit_code == 0
    assert json.loads(Path("run/copy.json").read_text()) == json.loads(Path("run/result.json").read_text())


@pytest.mark.parametrize("name", ["a run", "it's"])
def test_folders_are_quoted_for_the_shell(name: str) -> None:
    for command in next_commands("halfstep", Path(name))[1:]:
        assert name in shlex.split(command)
