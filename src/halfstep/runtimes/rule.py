"""A rule: which operators it is about, whether they run as integers there, and why.

A runtime's rules are a table. The first one that applies to an operator decides, so the order matters; the last one applies to all.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import final

from halfstep.runtimes.operator import Operator


@final
@dataclass(frozen=True)
class Rule:
    """applies: whether it decides about an operator. is_integer: the operator computes with integers. reason: why (empty: as it should).

    remedy: what to change in the file. is_refused: the runtime does not load the file at all.
    """

    applies: Callable[[Operator], bool]
    is_integer: bool
    reason: str = ""
    remedy: str = ""
    is_refused: bool = False


@final
@dataclass(frozen=True)
class Verdict:
    """What becomes of one operator in one runtime. is_confirmed: whether the runtime itself shows it; None where it was not asked."""

    is_integer: bool
    reason: str
    remedy: str = ""
    is_refused: bool = False
    is_confirmed: bool | None = None


def judge(operator: Operator, rules: Sequence[Rule]) -> Verdict:
    """The first rule that applies."""
    rule = next(rule for rule in rules if rule.applies(operator))
    return Verdict(rule.is_integer, rule.reason, rule.remedy, rule.is_refused)
