"""What is said of a result, and what to try."""

from __future__ import annotations

import pytest

from halfstep.recipes import shipped
from halfstep.report.record import OutputQuality, Quality
from halfstep.report.verdict import _NEXT, GRADES, grade, is_poor, quality_sentence, way_out


def output(agreement: float | None, sqnr_db: float | None, name: str = "output") -> OutputQuality:
    return OutputQuality(name, sqnr_db, 0.9, agreement, None)


@pytest.mark.parametrize(
    ("agreement", "sqnr_db", "expected"),
    [(1, 3, "good"), (0.97, 40, "usable"), (0.9, 40, "doubtful"), (0.5, 40, "not usable"), (None, 31, "good"), (None, None, "good"),
     (None, 25, "usable"), (None, 12, "doubtful"), (None, 9, "not usable"), (None, -3, "not usable")],
)  # fmt: skip
def test_grades(agreement: float | None, sqnr_db: float | None, expected: str) -> None:
    quality = Quality((output(1, 50), output(agreement, sqnr_db, "output_1")), 8, True)
    assert GRADES[grade(quality.outputs[1])] == expected
    assert is_poor(quality) == (expected in ("doubtful", "not usable"))
    assert quality_sentence(quality).endswith(f"{expected.capitalize()}.")


def test_sentences() -> None:
    assert quality_sentence(Quality((output(0.984375, 24.13),), 64, True)) == (
        "On 64 inputs that were not calibrated on: the answer of the float network on 98.44 %, 24.1 dB of signal against quantization "
        "noise. Usable."
    )
    assert quality_sentence(Quality((output(None, None), output(None, 8.0, "output_1")), 1, False)) == (
        "On 1 input that was calibrated on: 8.0 dB of signal against quantization noise of 'output_1', the worst of 2 outputs. Not usable."
    )


def test_the_way_out_names_layers_and_a_command() -> None:
    quality = Quality((output(None, 8.0),), 8, True)
    note = way_out(quality, {"conv2": 0.06, "conv1": 0.03, "fc": 0.001}, "int8")
    assert "not usable" in note and "'conv2' (65.93 %), 'conv1' (32.97 %)" in note and "'fc'" not in note
    assert "--recipe int8-balanced" in note and "pattern: conv2" in note
    assert way_out(quality, {}, "mine").endswith("says.")


def test_recipes_to_try_next_exist_and_end() -> None:
    assert {*_NEXT, *_NEXT.values()} <= set(shipped())
    for recipe in _NEXT:
        tried = [recipe]
        while tried[-1] in _NEXT:
            assert _NEXT[tried[-1]] not in tried
            tried.append(_NEXT[tried[-1]])
