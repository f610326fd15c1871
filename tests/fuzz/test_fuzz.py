"""Random networks keep every promise: no traceback, no mismatch, no silent collapse, and few that are refused."""

from __future__ import annotations

from collections import Counter

import pytest

from fuzz.random_networks import draw
from fuzz.trial import attempt

_GOOD_ENDS = ("passed", "refused")
_NUM_SLOW, _CHUNK = 1000, 50
_MOST_REFUSED = 0.25


def _attempted(seeds: range) -> tuple[str, Counter[str]]:
    """The plans of networks that broke a promise, and how many ended how."""
    outcomes = {seed: attempt(seed) for seed in seeds}
    broken = {seed: outcome for seed, outcome in outcomes.items() if outcome.kind not in _GOOD_ENDS}
    report = "\n".join(f"{draw(seed)}\n  {outcome.kind}: {outcome.detail}" for seed, outcome in broken.items())
    return report, Counter(outcome.kind for outcome in outcomes.values())


def test_a_few_networks() -> None:
    report, counts = _attempted(range(2000, 2024))
    assert not report and counts["refused"] <= _MOST_REFUSED * counts.total()


@pytest.mark.slow
@pytest.mark.parametrize("first", range(0, _NUM_SLOW, _CHUNK))
def test_many_networks(first: int) -> None:
    report, counts = _attempted(range(first, first + _CHUNK))
    assert not report and counts["refused"] <= _MOST_REFUSED * counts.total()


def test_a_seed_says_everything() -> None:
    assert str(draw(7)) == str(draw(7)) != str(draw(8))
    assert all((a == b).all() for a, b in zip(draw(7).inputs, draw(7).inputs, strict=True))
