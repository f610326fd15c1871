"""What the export refuses, what it says, and that it leaves nothing behind."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import onnx_ir as ir
import pytest
import torch
from random_programs import random_codes, random_program

from halfstep.errors import DataError, ExportError, HalfstepError
from halfstep.export import integer_onnx
from halfstep.export.integer_onnx import WRITERS, export_onnx_integer
from halfstep.export.integer_onnx.writer import INT64, Writer
from halfstep.integer import IntegerProgram
from halfstep.integer.operators import AbstractRequantized, Concat


def _with_kind(kind: str, mode: str | None = None) -> IntegerProgram:
    """The first of such a kind is an output: a softmax behind it would not see its codes move together."""
    programs = (random_program(seed, mode) for seed in range(500))
    return next(p for p in programs if next((op.output for op in p.operators if op.kind == kind), None) in p.outputs)


@pytest.mark.parametrize("kind", ["conv", "concat", "mean"])
def test_the_mode_float(kind: str, tmp_path: Path) -> None:
    program = _with_kind(kind, mode="float")
    first = next(
        op for op in program.operators if isinstance(op, Concat) or (isinstance(op, AbstractRequantized) and op.rescale.mode == "float")
    )
    with pytest.raises(ExportError, match=rf"Layer '{first.name}' requantizes in floats.*Lower the network in another mode, such as fixed"):
        export_onnx_integer(program, tmp_path / "net.onnx")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("kind", ["conv", "lookup", "copy"])
def test_other_codes_name_the_layer(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A writer that is off by one in one place of its kind; the layer named is the first it wrote."""
    program = _with_kind(kind)
    first = next(operator for operator in program.operators if operator.kind == kind)

    def off_by_one(writer: Writer, operator: Any) -> ir.Value:
        made = WRITERS[kind](writer, operator)
        assert made.dtype is not None
        return writer.emit("Add", [made, writer.number(1, made.dtype)], made.dtype)

    monkeypatch.setattr(integer_onnx, "WRITERS", {**WRITERS, kind: off_by_one})
    (tmp_path / "net.onnx").write_bytes(b"what was there")
    with pytest.raises(ExportError, match=rf"computes \d+ other code\(s\) at layer '{first.name}' \({kind}\) than the integer program"):
        export_onnx_integer(program, tmp_path / "net.onnx", random_codes(program, 8, 0))
    assert [(path.name, path.read_bytes()) for path in tmp_path.iterdir()] == [("net.onnx", b"what was there")]


def test_a_file_that_does_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A node that ONNX Runtime loads and cannot execute: an index beyond the table."""

    def beyond(writer: Writer, operator: Any) -> ir.Value:
        made = WRITERS["lookup"](writer, operator)
        assert made.dtype is not None
        zeros = writer.emit("Mul", [writer.cast(made, INT64), writer.number(0, INT64)], INT64)  # of the data, so that nothing is folded
        index = writer.emit("Add", [zeros, writer.number(9, INT64)], INT64)
        return writer.cast(writer.emit("Gather", [writer.integers([1, 2, 3]), index], INT64), made.dtype)

    monkeypatch.setattr(integer_onnx, "WRITERS", {**WRITERS, "lookup": beyond})
    with pytest.raises(ExportError, match="ONNX Runtime cannot run the model"):
        export_onnx_integer(_with_kind("lookup"), tmp_path / "net.onnx")
    assert list(tmp_path.iterdir()) == []


def test_inputs_that_are_no_codes(tmp_path: Path) -> None:
    program = random_program(1)
    codes = random_codes(program, 2, 0)
    name, value = program.inputs[0], program.values[program.inputs[0]]
    beyond = codes[0].clone()
    beyond[0] = value.grid.maximum + 1
    for wrong in (beyond, codes[0].float()):
        with pytest.raises(
            DataError, match=rf"Input '{name}' takes the codes {value.grid.minimum} \.\. {value.grid.maximum}, the data holds"
        ):
            export_onnx_integer(program, tmp_path / "net.onnx", (wrong, *codes[1:]))
    with pytest.raises(DataError, match="must have the shape"):
        export_onnx_integer(program, tmp_path / "net.onnx", (codes[0][..., None], *codes[1:]))
    with pytest.raises(DataError, match="The program takes"):
        export_onnx_integer(program, tmp_path / "net.onnx", (*codes, torch.zeros(2, 1, dtype=torch.int32)))
    assert list(tmp_path.iterdir()) == []


def test_a_place_that_cannot_be_written(tmp_path: Path) -> None:
    with pytest.raises(HalfstepError, match="does not exist"):
        export_onnx_integer(random_program(1), tmp_path / "missing" / "net.onnx")
