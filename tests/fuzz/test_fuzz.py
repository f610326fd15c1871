"""Random networks keep every promise: no traceback, no mismatch, no silent collapse, and few that are refused."""

from __future__ import annotations

from collections import Counter

import pytest

from fuzz.random_networks import draw
from fuzz.trial import Outcome, attempt

_GOOD_ENDS = ("passed", "refused")
_NUM_SLOW, _CHUNK = 1000, 50
_MOST_REFUSED = 0.25


def _report(outcomes: dict[int, Outcome]) -> str:
    return "\n".join(
        f"{draw(seed)}\n  {outcome.kind}: {outcome.detail}" for seed, outcome in outcomes.items() if outcome.kind not in _GOOD_ENDS
    )


def _attempt_all(seeds: range) -> None:
    outcomes = {seed: attempt(seed) for seed in seeds}
    counts = Counter(outcome.kind for outcome in outcomes.values())
    assert set(counts) <= set(_GOOD_ENDS), _report(outcomes)
    assert counts["refused"] <= _MOST_REFUSED * len(seeds), counts


def test_a_few_networks() -> None:
    _attempt_all(range(2000, 2024))


@pytest.mark.slow
@pytest.mark.parametrize("first", range(0, _NUM_SLOW, _CHUNK))
def test_many_networks(first: int) -> None:
    _attempt_all(range(first, first + _CHUNK))


def test_a_seed_says_everything() -> None:
    assert str(draw(7)) == str(draw(7)) != str(draw(8))
    assert all((a == b).all() for a, b in zip(draw(7).inputs, draw(7).inputs, strict=True))
