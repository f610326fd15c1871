"""By hand."""

from __future__ import annotations

import math

import pytest

from halfstep.studies.statistics import contradictions, deviation, mean, pearson, resolution, spearman, standard_error


def test_mean_and_deviation() -> None:
    """Squares about 4: 4 + 0 + 4 = 8, over n - 1 = 2."""
    assert mean([2.0, 4.0, 6.0]) == 4.0
    assert deviation([2.0, 4.0, 6.0]) == 2.0
    assert deviation([3.0]) is None
    assert standard_error([2.0, 4.0, 6.0]) == pytest.approx(2 / math.sqrt(3), rel=1e-15)
    assert standard_error([3.0]) == 0.0


def test_pearson() -> None:
    """X about its mean: -1, 0, 1; y: -2, 1, 1. Products 2 + 0 + 1 = 3; norms sqrt(2) and sqrt(6)."""
    assert pearson([1.0, 2.0, 3.0], [0.0, 3.0, 3.0]) == pytest.approx(3 / math.sqrt(12), rel=1e-15)
    assert pearson([1.0, 2.0], [5.0, -5.0]) == pytest.approx(-1.0, rel=1e-15)
    assert pearson([1.0, 1.0], [2.0, 3.0]) is None


def test_spearman_sees_ranks_alone_and_shares_those_of_equal_values() -> None:
    assert spearman([1.0, 2.0, 30.0], [-1.0, 5.0, 6.0]) == pytest.approx(1.0, rel=1e-15)
    # Ranks 0, 1, 2 and 0, 1.5, 1.5: products 1 + 0 + 0.5 = 1.5; norms sqrt(2) and sqrt(1.5).
    assert spearman([1.0, 2.0, 3.0], [0.0, 3.0, 3.0]) == pytest.approx(1.5 / math.sqrt(3), rel=1e-15)


def test_resolution() -> None:
    """Of 10,000 images 100 flip: a standard deviation of 10 images, 0.1 points; two of them."""
    assert resolution(10_000) == pytest.approx(0.2, rel=1e-12)


@pytest.mark.parametrize(
    ("ours", "turned", "undecided"),
    [
        ([[50.0], [60.0], [70.0]], [], []),
        ([[50.0], [70.0], [60.0]], [(2, 1)], []),
        ([[50.0], [70.1], [70.0]], [], [(2, 1)]),
        # The standard error of 0, 100, 65 is large: the pair with it says nothing.
        ([[50.0], [0.0, 100.0, 65.0], [70.0]], [], [(1, 0), (2, 1)]),
    ],
)
def test_contradictions(ours: list[list[float]], turned: list[tuple[int, int]], undecided: list[tuple[int, int]]) -> None:
    """The paper has the rows in ascending order."""
    assert contradictions(ours, [1.0, 2.0, 3.0], least=1.0) == (turned, undecided)


def test_equal_figures_of_the_paper_have_no_order() -> None:
    assert contradictions([[1.0], [9.0]], [0.1, 0.1], least=1.0) == ([], [])
