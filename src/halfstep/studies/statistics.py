"""Means, correlations, and whether two lists of figures stand in the same order."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import combinations

_FLIPPED = 0.01  # share of the answers in which two networks of about the same accuracy are taken to differ


def mean(values: Sequence[float]) -> float:
    """The arithmetic mean."""
    return math.fsum(values) / len(values)


def deviation(values: Sequence[float]) -> float | None:
    """The sample standard deviation, with n - 1; None for a single value."""
    if len(values) < 2:
        return None
    centre = mean(values)
    return math.sqrt(math.fsum((value - centre) ** 2 for value in values) / (len(values) - 1))


def pearson(x: Sequence[float], y: Sequence[float]) -> float | None:
    """The linear correlation; None where one of both is constant."""
    x_centre, y_centre = mean(x), mean(y)
    joint = math.fsum((a - x_centre) * (b - y_centre) for a, b in zip(x, y, strict=True))
    spread = math.sqrt(math.fsum((a - x_centre) ** 2 for a in x)) * math.sqrt(math.fsum((b - y_centre) ** 2 for b in y))
    return joint / spread if spread else None


def spearman(x: Sequence[float], y: Sequence[float]) -> float | None:
    """The correlation of the ranks; equal values share the mean of their ranks."""
    return pearson(_ranks(x), _ranks(y))


def _ranks(values: Sequence[float]) -> list[float]:
    order = sorted(values)
    first = {value: order.index(value) for value in set(values)}
    return [first[value] + (order.count(value) - 1) / 2 for value in values]


def resolution(num_images: int) -> float:
    """Points of accuracy on the same ``num_images`` that chance alone may make: two standard errors.

    Two networks whose answers differ on f images, each to the better or the worse with equal odds, differ by sqrt(f) images; f is taken to
    be one in a hundred.
    """
    return 200 * math.sqrt(_FLIPPED * num_images) / num_images


def standard_error(values: Sequence[float]) -> float:
    """Of the mean over seeds; 0 for a single value."""
    return (deviation(values) or 0.0) / math.sqrt(len(values))


def contradictions(
    ours: Sequence[Sequence[float]], published: Sequence[float], least: float
) -> tuple[list[tuple[int, int]], list[tuple[int, int]]]:
    """(reversed, undecided): pairs (i, j) with published[i] > published[j] where ours says the opposite, or nothing.

    ours: the values of each row over the seeds. least: points below which a difference says nothing; the standard errors of both means are
    taken twice and added to it in squares.
    """
    turned, open_ = [], []
    for i, j in combinations(range(len(published)), 2):
        if published[i] == published[j]:
            continue
        better, worse = (i, j) if published[i] > published[j] else (j, i)
        gain = mean(ours[better]) - mean(ours[worse])
        noise = math.sqrt(least**2 + 4 * standard_error(ours[better]) ** 2 + 4 * standard_error(ours[worse]) ** 2)
        if abs(gain) <= noise:
            open_.append((better, worse))
        elif gain < 0:
            turned.append((better, worse))
    return turned, open_
