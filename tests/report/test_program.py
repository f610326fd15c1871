"""The report's section on the integer program."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import halfstep as hs
import zoo
from halfstep.errors import RecipeError
from halfstep.integer.record import OperatorRecord, ProgramRecord
from halfstep.report import words
from halfstep.report.program import program_section

RECORD = ProgramRecord("single_shift", 3, 1234, (OperatorRecord("conv<1>", "conv", 0.25, 100, 3, 1),), 0.01, 0.5, 32, ("A note.",))


def test_no_program_no_section() -> None:
    assert program_section(None) == ""


def test_the_section_names_every_operator_and_escapes_it() -> None:
    section = program_section(RECORD)
    assert "conv&lt;1&gt;" in section and "25 %" in section and "3 %" in section and "1 code" in section


def test_the_sentences_say_what_was_found() -> None:
    text = " ".join(words.program_sentences(RECORD))
    assert all(part in text for part in ("single_shift", "3 operators", "1.23 kB", "50 %", "off by 25 %, at 'conv<1>'", "A note."))


def test_a_result_with_a_program_is_saved_and_loaded_with_it(tmp_path: Path) -> None:
    result = hs.quantize(zoo.ZOO["residual"].model(), zoo.calibration_of("residual"), "int8")
    program = hs.lower(result)
    result.save(tmp_path / "run")
    loaded = hs.load(tmp_path / "run")
    assert loaded.record.program == result.record.program and loaded.program is not None
    assert loaded.program.operators[0].name == program.operators[0].name
    assert json.loads((tmp_path / "run" / "result.json").read_text())["program"]["mode"] == "fixed_point_32"
    assert "Integer program" in (tmp_path / "run" / "report.html").read_text()


def test_an_unknown_requantization_is_refused() -> None:
    with pytest.raises(RecipeError, match="requantization"):
        hs.Recipe.load("int8").with_requantization("shift")
