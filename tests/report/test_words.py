"""Findings in a reader's words."""

from __future__ import annotations

import dataclasses

from report_example import layer

from halfstep.report.record import FloatCheck
from halfstep.report.words import float_sentence, poor_layers


def test_a_float_network_that_is_the_users_says_how_equal_it_is() -> None:
    found = float_sentence(FloatCheck(1.7e-7, {}, 2))
    assert found == "Float network: equal to yours within 2e-07 of the largest output (2 inputs)."
    assert float_sentence(FloatCheck(0.0, {}, 1)) == "Float network: equal to yours (1 input)."


def test_what_was_changed_on_purpose_is_named() -> None:
    found = float_sentence(FloatCheck(1e-7, {"equalize": 0.012, "absorb_bias": 0.0}, 2))
    assert found.endswith("(2 inputs); changed on purpose by 'equalize', by 1.2 %.")


def test_without_a_float_network_there_is_nothing_to_compare() -> None:
    assert "began with a quantized network" in float_sentence(None)


def test_an_output_that_keeps_little_is_named_with_its_ranges() -> None:
    good, poor = layer("good"), layer("conv", sqnr_db=8.5)
    assert poor_layers([good]) == []
    (found,) = poor_layers([good, poor, layer("next", sqnr_db=3.0)])
    assert found.startswith("'conv' keeps little of its output: 8.5 dB of signal against quantization noise, as do 1 others behind it.")
    assert "Its grid covers -2 … 2, its values are -4 … 4" in found


def test_few_bits_may_keep_little() -> None:
    poor = layer("conv", sqnr_db=8.5)
    assert poor.output is not None
    assert poor_layers([dataclasses.replace(poor, output=dataclasses.replace(poor.output, bits=4))]) == []
