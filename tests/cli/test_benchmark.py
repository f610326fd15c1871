"""``halfstep benchmark`` on a run directory and on a file."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from typer.testing import Result

Command = Callable[..., Result]
QUICK = ("--seconds", "0.1", "--threads", "1")


def test_a_run_beside_its_float_network(halfstep: Command, quantized: Path) -> None:
    done = halfstep("benchmark", quantized, *QUICK, "--batch", "1,3", "--json", "speed.json")
    assert done.exit_code == 0, done.output
    found = json.loads(Path("speed.json").read_text())
    rows = [row for row in found["speeds"] if row["runtime"] == "onnxruntime"]
    assert [row["batch_size"] for row in rows] == [1, 3]
    assert all(row["ratio"]["low"] <= row["ratio"]["high"] for row in rows)
    assert found["bytes"]["model"] == (quantized / "model.onnx").stat().st_size


def test_a_file_alone_has_no_ratio(halfstep: Command, quantized: Path) -> None:
    done = halfstep("benchmark", quantized / "model.onnx", *QUICK, "--batch", "1", "--json", "speed.json")
    assert done.exit_code == 0, done.output
    assert json.loads(Path("speed.json").read_text())["speeds"][0]["ratio"] is None


def test_what_cannot_be_timed(refuse: Callable[..., str], here: Path) -> None:
    (here / "text.onnx").write_text("no network")
    (here / "empty").mkdir()
    assert "There is no file 'missing.onnx'" in refuse("benchmark", "missing.onnx")
    assert "holds no model.onnx" in refuse("benchmark", "empty")
    assert "ONNX Runtime cannot load the model" in refuse("benchmark", "text.onnx")
    assert "--batch has '1;8' where whole numbers" in refuse("benchmark", "text.onnx", "--batch", "1;8")
