"""``halfstep check`` on a run's file, on one that runs in float, and on what is no ONNX file."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import onnx
from onnx import helper
from typer.testing import Result

Command = Callable[..., Result]


def test_the_file_of_a_run(halfstep: Command, quantized: Path) -> None:
    done = halfstep("check", quantized / "model.onnx", "--runtime", "onnxruntime", "--strict", "--json", "check.json")
    assert done.exit_code == 0, done.output
    assert "onnxruntime: 2 of 2 convolutions and matrix products with integers (seen in what it executes)." in done.stdout
    found = json.loads(Path("check.json").read_text())
    assert found["is_integer"] and found["runtimes"] == ["onnxruntime"]


def test_strict_fails_where_a_runtime_does_not_load_the_file(halfstep: Command, quantized: Path) -> None:
    done = halfstep("check", quantized / "model.onnx", "--runtime", "tensorrt", "--strict")
    assert done.exit_code == 1
    assert "tensorrt does not load this file" in done.stdout
    assert halfstep("check", quantized / "model.onnx").exit_code == 0  # a report is no failure


def test_reasons_name_the_operators(halfstep: Command, quantized: Path) -> None:
    """Without its Q the convolution is computed in float."""
    model = onnx.load(quantized / "model.onnx")
    conv = next(node for node in model.graph.node if node.op_type == "Conv")
    value = helper.make_tensor_value_info(conv.output[0], onnx.TensorProto.FLOAT, None)
    model.graph.output.append(value)
    onnx.save(model, "open.onnx")
    done = halfstep("check", "open.onnx", "--runtime", "onnxruntime")
    assert "1 of 2 convolutions" in done.stdout
    assert f"Conv '{conv.name}': no Q behind it" in done.stdout


def test_no_onnx_file(refuse: Callable[..., str], here: Path) -> None:
    (here / "broken.onnx").write_bytes(b"\x08\x07\x12\xff\xff")
    assert "'broken.onnx' is not an ONNX file, or it is truncated" in refuse("check", "broken.onnx")
    assert "There is no file 'missing.onnx'" in refuse("check", "missing.onnx")
