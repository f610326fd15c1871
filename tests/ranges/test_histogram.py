"""The streaming histogram depends on the values alone: against a reference in exact fractions, in any order and batching."""

from __future__ import annotations

import itertools
import math
from collections import Counter
from fractions import Fraction

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from halfstep.ranges import Histogram
from halfstep.ranges.histogram import HALF

SOME = st.one_of(st.just(0.0), st.floats(2.0**-60, 2.0**60, width=32), st.floats(-(2.0**60), -(2.0**-60), width=32))
POWERS = st.builds(lambda sign, exponent: sign * 2.0**exponent, st.sampled_from([1, -1]), st.integers(-60, 60))
VALUES = st.lists(st.one_of(SOME, POWERS, st.floats(-3, 3, width=32).map(lambda x: x if abs(x) > 2.0**-60 else 0.0)), max_size=40)
ANY = st.lists(st.floats(allow_nan=False, allow_infinity=False, width=32), min_size=1, max_size=10)


def histogram_of(*batches: list[float] | torch.Tensor) -> Histogram:
    histogram = Histogram()
    for batch in batches:
        histogram.observe(torch.as_tensor(batch, dtype=torch.float32))
    return histogram


def state(histogram: Histogram) -> tuple[object, ...]:
    return (histogram.exponent, histogram.minimum, histogram.maximum, histogram.counts.tolist())


def reference(values: list[float]) -> tuple[int | None, dict[int, int]]:
    """The smallest exponent with which every value has a bin, and the occupied bins, in exact arithmetic."""
    exact = [Fraction(value) for value in values]
    if not any(exact):
        return None, {0: len(values)} if values else {}
    exponent = -200
    while not all(-HALF <= math.floor(value / Fraction(2) ** exponent) < HALF for value in exact):
        exponent += 1
    return exponent, dict(Counter(math.floor(value / Fraction(2) ** exponent) for value in exact))


def occupied(histogram: Histogram) -> dict[int, int]:
    return {int(i) - HALF: int(histogram.counts[i]) for i in torch.nonzero(histogram.counts).flatten()}


@settings(deadline=None, max_examples=80)
@given(VALUES)
@example([4096.0])
@example([-4096.0])
@example([math.nextafter(4096.0, 0)])
@example([1.0, -1.0, 2.0**-12])
def test_counts_equal_the_reference(values: list[float]) -> None:
    histogram = histogram_of(values)
    exponent, counts = reference(torch.tensor(values).tolist())
    assert histogram.exponent == exponent
    assert occupied(histogram) == counts
    assert histogram.num_values == len(values)


@settings(deadline=None, max_examples=60)
@given(VALUES, st.randoms(use_true_random=False), st.lists(st.integers(0, 40), max_size=6))
def test_order_and_batching_do_not_matter(values: list[float], random: object, cuts: list[int]) -> None:
    whole = state(histogram_of(values))
    shuffled = list(values)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    borders = [0, *sorted(min(cut, len(values)) for cut in cuts), len(values)]
    batches = [shuffled[start:end] for start, end in itertools.pairwise(borders)]
    assert state(histogram_of(*batches)) == whole
    assert state(histogram_of(*([value] for value in shuffled))) == whole


@settings(deadline=None, max_examples=50)
@given(ANY)
@example([1e-40])
@example([1e-45, 0.0, -1e-45])
@example([1e20, -1e-30])
@example([3.4028234663852886e38, -1e-45])
def test_every_float32_has_its_bin(values: list[float]) -> None:
    """The whole range of float32, subnormal numbers too: dead channels of trained networks are of the order of 1e-40."""
    histogram = histogram_of(values)
    assert histogram.num_values == len(values)
    assert state(histogram) == state(histogram_of(*([value] for value in values)))
    assert sum(count for bin_, count in occupied(histogram).items() if bin_ < 0) == sum(value < 0 for value in values)
    assert bool(torch.isfinite(histogram.distribution().values).all())


@settings(deadline=None, max_examples=50)
@given(VALUES, VALUES, VALUES)
def test_merging_is_observing_together(first: list[float], second: list[float], third: list[float]) -> None:
    merged, other = histogram_of(first), histogram_of(second)
    before = state(other)
    merged.merge(other)
    merged.merge(histogram_of(third))
    assert state(merged) == state(histogram_of(first + second + third))
    assert state(other) == before


@pytest.mark.parametrize("growth", [10.0, 1e6, 1e18, 1e36])
def test_the_range_may_grow_by_huge_factors(growth: float, generator: torch.Generator) -> None:
    small = torch.randn(5000, generator=generator)
    small[0] = -0.5
    histogram = histogram_of(small, torch.tensor([growth, -growth]))
    assert state(histogram) == state(histogram_of(torch.cat([small, torch.tensor([growth, -growth])])))
    assert histogram.num_values == 5002
    negative = sum(count for bin_, count in occupied(histogram).items() if bin_ < 0)
    assert negative == int((small < 0).sum()) + 1  # no value changes its side of 0


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("exponent", [-40, -1, 0, 1, 12, 40])
def test_powers_of_two_begin_their_bin(sign: int, exponent: int) -> None:
    """Bins are closed below and open above: the width doubles at +4096 widths but not at -4096."""
    value = 2.0**exponent
    histogram = histogram_of([sign * value])
    assert histogram.exponent == (exponent - 11 if sign > 0 else exponent - 12)
    assert occupied(histogram) == {2048 if sign > 0 else -4096: 1}


def test_one_sided_and_empty_tensors() -> None:
    assert histogram_of([1.0, 2.0, 3.0]).counts[:HALF].sum() == 0
    assert histogram_of([-1.0, -2.0, -3.0]).counts[HALF:].sum() == 0
    zeros = histogram_of([0.0, -0.0, 0.0])
    assert (zeros.exponent, zeros.minimum, zeros.maximum, occupied(zeros)) == (None, 0.0, 0.0, {0: 3})
    empty = histogram_of([])
    assert (empty.exponent, empty.num_values, empty.is_finite) == (None, 0, True)


@pytest.mark.parametrize("poison", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("place", [0, 3, 7])
def test_values_that_are_not_finite_are_flagged(poison: float, place: int) -> None:
    histogram = histogram_of([1.0, 2.0])
    before = state(histogram)
    x = torch.ones(8)
    x[place] = poison
    histogram.observe(x)
    assert not histogram.is_finite
    assert state(histogram) == before
    histogram.observe(torch.ones(2))
    assert not histogram.is_finite  # once broken, always broken
    assert histogram.num_values == 4


def test_the_flag_survives_merging_and_saving() -> None:
    broken = histogram_of([1.0], [math.nan])
    merged = histogram_of([2.0])
    merged.merge(broken)
    assert not merged.is_finite
    assert not Histogram.from_tensor(broken.to_tensor()).is_finite


@settings(deadline=None, max_examples=40)
@given(VALUES, VALUES)
def test_a_saved_histogram_comes_back(values: list[float], later: list[float]) -> None:
    histogram = histogram_of(values)
    saved = histogram.to_tensor()
    assert saved.dtype == torch.float64
    loaded = Histogram.from_tensor(saved)
    assert state(loaded) == state(histogram)
    loaded.observe(torch.tensor(later))
    assert state(loaded) == state(histogram_of(values + later))  # and goes on counting


def test_large_counts_are_saved_exactly() -> None:
    histogram = histogram_of([1.0])
    histogram.counts[HALF + 5] = 2**53 - 1
    assert int(Histogram.from_tensor(histogram.to_tensor()).counts[HALF + 5]) == 2**53 - 1


def test_memory_is_bounded(generator: torch.Generator) -> None:
    histogram = Histogram()
    for exponent in range(40):
        histogram.observe(torch.randn(1000, generator=generator) * 2.0**exponent)
    held = sum(value.numel() for value in vars(histogram).values() if isinstance(value, torch.Tensor))
    assert held == 2 * HALF
    assert histogram.num_values == 40_000
    assert histogram.to_tensor().numel() <= 2 * HALF + 8  # and a few numbers about them


def test_any_shape_type_and_layout_and_the_tensor_is_left_alone(generator: torch.Generator) -> None:
    x = torch.randn(3, 5, 7, generator=generator)
    copy = x.clone()
    expected = state(histogram_of(x.flatten()))
    for form in (x, x.transpose(0, 2), x.double(), x.clone().requires_grad_()):
        histogram = Histogram()
        histogram.observe(form)
        assert state(histogram) == expected
    assert torch.equal(x, copy)
    images = torch.randn(2, 3, 4, 5, generator=generator)
    assert state(histogram_of(images.to(memory_format=torch.channels_last))) == state(histogram_of(images))
    integers = Histogram()
    integers.observe(torch.arange(-3, 4))
    assert (integers.num_values, integers.minimum, integers.maximum) == (7, -3.0, 3.0)
    single = Histogram()
    single.observe(torch.tensor(2.5))
    assert single.num_values == 1


def test_more_values_than_are_binned_at_once(generator: torch.Generator) -> None:
    x = torch.randn((1 << 16) * 2 + 17, generator=generator)
    histogram = histogram_of(x)
    assert histogram.num_values == len(x)
    width = 2.0 ** (histogram.exponent or 0)
    assert torch.equal(histogram.counts, torch.bincount(torch.floor(x.double() / width).long() + HALF, minlength=2 * HALF))


@settings(deadline=None, max_examples=50)
@given(VALUES.filter(bool))
def test_the_distribution_is_the_values_to_half_a_bin(values: list[float]) -> None:
    """Each value stands half a bin from the centre of its bin at most; in the first bin above 0, less than a bin from 0."""
    histogram = histogram_of(values)
    distribution = histogram.distribution()
    width = 0.0 if histogram.exponent is None else 2.0**histogram.exponent
    assert distribution.values.shape == distribution.counts.shape
    assert distribution.values.shape[0] == 1
    assert bool((distribution.values.diff(dim=1) > 0).all())
    assert int(distribution.counts.sum()) == len(values)
    assert distribution.minimum.tolist() == [min(values)] and distribution.maximum.tolist() == [max(values)]
    expanded = torch.repeat_interleave(distribution.values[0].double(), distribution.counts[0].long())
    exact = torch.tensor(sorted(values), dtype=torch.float64)
    distance = (expanded - exact).abs()
    assert bool((distance <= torch.where((exact >= 0) & (exact < width), width, width / 2)).all())


def test_what_a_relu_leaves_is_exactly_zero(generator: torch.Generator) -> None:
    distribution = histogram_of(torch.randn(1000, generator=generator).relu()).distribution()
    assert float(distribution.values[0, 0]) == 0.0
    assert float(distribution.counts[0, 0]) >= 400
