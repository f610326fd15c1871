"""Freezing against its algorithm, written out weight by weight."""

from __future__ import annotations

import itertools

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from halfstep.grid import Grid
from halfstep.quantizers import LsqQuantizer
from halfstep.steps.training.freezing import FreezingOptions, FrozenWeight

SCALE = 0.25


def made(start: list[float]) -> tuple[torch.Tensor, LsqQuantizer, FrozenWeight]:
    quantizer = LsqQuantizer(Grid(4, True), is_weight=True)
    quantizer.set(torch.tensor(SCALE), torch.tensor(0.0))
    weight = torch.tensor(start)
    return weight, quantizer, FrozenWeight(weight, quantizer)


def reference(codes: list[int], threshold: float, momentum: float) -> tuple[float, float | None]:
    """(frequency, mean code where it froze or None) of one weight that took these codes one after the other."""
    frequency, mean, direction = 0.0, float(codes[0]), 0
    for before, now in itertools.pairwise(codes):
        turned = now != before and direction * (now - before) < 0
        frequency = momentum * turned + (1 - momentum) * frequency
        mean = momentum * now + (1 - momentum) * mean
        if now != before:
            direction = 1 if now > before else -1
        if frequency > threshold:
            return frequency, mean
    return frequency, None


@given(st.lists(st.integers(-8, 7), min_size=2, max_size=12), st.sampled_from([0.05, 0.2, 0.4]), st.sampled_from([0.1, 0.3]))
def test_it_is_the_algorithm(codes: list[int], threshold: float, momentum: float) -> None:
    weight, _, frozen = made([codes[0] * SCALE])
    for code in codes[1:]:
        if not bool(frozen.is_frozen):
            weight.fill_(code * SCALE)
        frozen.update(threshold, momentum)
    frequency, expected = reference(codes, threshold, momentum)
    assert bool(frozen.is_frozen) == (expected is not None)
    if expected is None:
        assert float(frozen.frequency) == pytest.approx(frequency, abs=1e-6)
        assert float(weight) == codes[-1] * SCALE
    else:
        code = float(weight) / SCALE
        assert code == round(code) and abs(code - expected) <= 0.5 + 1e-5  # the mean is a float32 here, a float64 there


def test_a_frozen_weight_follows_its_scale_and_nothing_else() -> None:
    weight, quantizer, frozen = made([SCALE, SCALE])
    for code in (2, 1, 2, 1, 2):
        weight[0] = code * SCALE
        frozen.update(0.15, 0.1)
    assert frozen.is_frozen.tolist() == [True, False]
    weight += 1.0
    quantizer.set(torch.tensor(0.5), torch.tensor(0.0))
    frozen.update(0.15, 0.1)
    assert weight.tolist() == [0.5, SCALE + 1.0]
    weight.zero_()
    frozen.restore()
    assert weight.tolist() == [0.5, 0.0]
    frozen.begin()
    assert not frozen.is_frozen.any()


def test_the_threshold_falls_in_half_a_cosine_wave() -> None:
    options = FreezingOptions(start=0.4, end=0.2)
    assert [options.threshold(done) for done in (0.0, 0.5, 1.0)] == pytest.approx([0.4, 0.3, 0.2])
