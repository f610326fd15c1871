"""`halfstep export`: every format from one run directory."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import Result

import halfstep as hs

EXPORT = ("export", "run", "--format")


@pytest.mark.parametrize(
    ("format_name", "name"), [("onnx", "a.onnx"), ("onnx-integer", "b.onnx"), ("program", "p.safetensors"), ("c", "net_c")]
)
def test_every_format(quantized: Path, halfstep: Callable[..., Result], format_name: str, name: str) -> None:
    result = halfstep(*EXPORT, format_name, "--out", name, "--json", "found.json")
    assert result.exit_code == 0, result.output
    assert Path(name).exists() and f"Model: {name}" in result.stdout
    found = json.loads(Path("found.json").read_text())
    assert ("program" in found) == (format_name != "onnx")
    again = halfstep(*EXPORT, format_name, "--out", name)
    assert again.exit_code == 1 and "--force" in again.output
    assert halfstep(*EXPORT, format_name, "--out", name, "--force").exit_code == 0


def test_a_written_program_can_be_read(quantized: Path, halfstep: Callable[..., Result]) -> None:
    assert halfstep(*EXPORT, "program", "--out", "p.safetensors", "--requantization", "fixed_point_16").exit_code == 0
    assert hs.IntegerProgram.load("p.safetensors").mode == "fixed_point_16"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("cc", "--out", "x"), "Unknown format 'cc'"),
        (("c", "--out", "x", "--target", "openvino"), "--target is for QDQ files"),
        (("onnx", "--out", "x", "--target", "openvin"), "Did you mean 'openvino'?"),
        (("onnx", "--out", "x.onnx", "--requantization", "single_shift"), "integer formats"),
        (("onnx", "--out", "x.onnx", "--groups", "qqd"), "Unknown form of groups 'qqd'. Did you mean 'qdq'"),
        (("c", "--out", "x", "--requantization", "single"), "single_shift"),
        (("c", "--out", "x", "--requantization", "single_shift"), "in the recipe's scheme (--requantization)"),  # not made for it
        (("c", "--out", "x", "--requantization", "float"), "fixed_point_32"),
    ],
)
def test_what_is_refused_leaves_nothing(quantized: Path, halfstep: Callable[..., Result], arguments: tuple[str, ...], said: str) -> None:
    result = halfstep(*EXPORT, *arguments)
    assert result.exit_code == 1 and said in result.output
    assert not Path(arguments[2]).exists()


def test_a_file_for_another_runtime(quantized: Path, halfstep: Callable[..., Result]) -> None:
    done = halfstep(*EXPORT, "onnx", "--target", "generic", "--out", "generic.onnx")
    assert done.exit_code == 0, done.output
    refused = halfstep(*EXPORT, "onnx", "--target", "tensorrt", "--out", "engine.onnx")
    assert refused.exit_code == 1 and "quantize with --target tensorrt" in " ".join(refused.output.split())
    assert not Path("engine.onnx").exists()
