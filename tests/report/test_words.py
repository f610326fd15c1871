"""Findings in a reader's words."""

from __future__ import annotations

from halfstep.report.record import FloatCheck
from halfstep.report.words import float_sentence


def test_a_float_network_that_is_the_users_says_how_equal_it_is() -> None:
    found = float_sentence(FloatCheck(1.7e-7, {}, 2))
    assert found == "Float network: equal to yours within 2e-07 of the largest output (2 inputs)."
    assert float_sentence(FloatCheck(0.0, {}, 1)) == "Float network: equal to yours (1 input)."


def test_what_was_changed_on_purpose_is_named() -> None:
    found = float_sentence(FloatCheck(1e-7, {"equalize": 0.012, "absorb_bias": 0.0}, 2))
    assert found.endswith("(2 inputs); changed on purpose by 'equalize', by 1.2 %.")


def test_without_a_float_network_there_is_nothing_to_compare() -> None:
    assert "began with a quantized network" in float_sentence(None)
