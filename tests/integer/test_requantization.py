"""The integer multiply: equal to exact rational arithmetic, and as near to the real scale as its mode promises."""

from __future__ import annotations

import math
from fractions import Fraction

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st

from halfstep.errors import LoweringError
from halfstep.integer import MODES, Rescale, rescale
from halfstep.integer.requantization import MAX_SHIFT, exact_power, nearest_scale, relative_error, shared_shift

_INT32 = st.integers(-(2**31), 2**31 - 1) | st.sampled_from([-(2**31), 2**31 - 1, 0, 1, -1])
_SCALES = st.floats(-40, 14).map(lambda exponent: 2.0**exponent)
_INTEGER_MODES = [mode for mode in MODES if mode != "float"]
# From the table of the module: the largest relative error of a scale within reach, and the bits of a multiplier.
_ERRORS = {"fixed_point_32": 2.0**-24, "fixed_point_16": 2.0**-15, "single_shift": math.sqrt(2) - 1, "double_shift": 1 / 5}
_BITS = {"fixed_point_32": 31, "fixed_point_16": 15, "single_shift": 31, "double_shift": 31}


def _exact(accumulator: int, multiplier: int, shift: int) -> int:
    """floor(a m / 2^s + 1/2), in rationals; without a shift there is nothing to round."""
    return math.floor(Fraction(accumulator * multiplier, 1 << shift) + Fraction(1, 2))


@given(st.lists(_INT32, min_size=1, max_size=5), st.integers(0, 2**31 - 1), st.integers(0, MAX_SHIFT))
def test_apply_is_exact(accumulators: list[int], multiplier: int, shift: int) -> None:
    """Over the whole range of accumulators, multipliers and shifts: nothing leaves 64 bits."""
    made = Rescale("fixed_point_32", torch.tensor([multiplier]), torch.tensor([shift])).apply(torch.tensor(accumulators))
    assert made.tolist() == [_exact(a, multiplier, shift) for a in accumulators]


@given(st.lists(_INT32, min_size=3, max_size=3), st.lists(_SCALES, min_size=3, max_size=3), st.sampled_from(_INTEGER_MODES))
def test_apply_along_channels(accumulators: list[int], scales: list[float], mode: str) -> None:
    chosen = rescale(torch.tensor(scales, dtype=torch.float64), mode)
    pairs = list(zip(chosen.multiplier.tolist(), chosen.shift.tolist(), strict=True))
    wanted = [_exact(a, m, s) for a, (m, s) in zip(accumulators, pairs, strict=True)]
    column = torch.tensor(accumulators)[None, :, None].expand(2, 3, 4)
    made = chosen.apply(column, 1)
    assert made.shape == column.shape
    assert made[1, :, 3].tolist() == wanted
    assert torch.equal(chosen.at(torch.tensor([2, 0])).apply(torch.tensor(accumulators)[[2, 0]]), made[0, [2, 0], 0])


@given(st.lists(_INT32, max_size=4), st.lists(_SCALES, min_size=1, max_size=1))
def test_the_mode_float_rounds_in_float64(accumulators: list[int], scales: list[float]) -> None:
    made = rescale(torch.tensor(scales, dtype=torch.float64), "float").apply(torch.tensor(accumulators, dtype=torch.int64))
    assert made.tolist() == [math.floor(a * scales[0] + 0.5) for a in accumulators]


@given(st.lists(_SCALES, min_size=1, max_size=4), st.sampled_from(_INTEGER_MODES))
def test_the_error_is_within_the_bound_of_its_mode(scales: list[float], mode: str) -> None:
    real = torch.tensor(scales, dtype=torch.float64)
    # One multiplier reaches only so far down: what lies below its last bit is no longer "within reach".
    assume(mode not in ("fixed_point_32", "fixed_point_16") or float(real.min()) >= 2.0**-38)
    chosen = rescale(real, mode)
    assert relative_error(real, chosen) <= _ERRORS[mode]
    assert int(chosen.multiplier.min()) >= 1
    assert int(chosen.multiplier.max()) < 2 ** _BITS[mode]
    assert 0 <= int(chosen.shift.min()) <= int(chosen.shift.max()) <= MAX_SHIFT
    assert chosen.mode == mode


@given(_SCALES)
def test_one_scale_in_fixed_point_32_keeps_all_its_bits(scale: float) -> None:
    """A multiplier of 31 bits errs by half of its last bit at most."""
    assume(scale >= 2.0**-31)
    assert abs(nearest_scale(scale, "fixed_point_32") / scale - 1) <= 2.0**-31


@given(_SCALES)
def test_a_single_shift_is_the_nearest_power(scale: float) -> None:
    chosen = nearest_scale(scale, "single_shift")
    assert math.log2(chosen) == round(math.log2(chosen))
    best = min((2.0**k for k in range(-62, 31)), key=lambda power: abs(math.log2(power / scale)))
    assert abs(math.log2(chosen / scale)) == pytest.approx(abs(math.log2(best / scale)), abs=1e-12)


@given(_SCALES)
def test_a_double_shift_is_the_nearest_sum_of_two_powers(scale: float) -> None:
    chosen = nearest_scale(scale, "double_shift")
    sums = [2.0**-n + 2.0**-m for n in range(-30, 63) for m in range(n, min(n + 16, 63))]
    assert chosen in sums
    nearest = min(abs(power / scale - 1) for power in sums)
    assert abs(chosen / scale - 1) == pytest.approx(nearest, abs=1e-12)


def test_left_shifts() -> None:
    assert rescale(torch.tensor(8.0), "single_shift").apply(torch.tensor([-3, 5])).tolist() == [-24, 40]
    assert rescale(torch.tensor(24.0), "double_shift").apply(torch.tensor([-3, 5])).tolist() == [-72, 120]
    assert exact_power(4).apply(torch.tensor([-3, 5])).tolist() == [-48, 80]
    assert exact_power(-1).apply(torch.tensor([-3, -2, 3])).tolist() == [-1, -1, 2]  # halves upwards


@pytest.mark.parametrize("mode", _INTEGER_MODES)
def test_a_half_is_rounded_up_for_either_sign(mode: str) -> None:
    chosen = rescale(torch.tensor(0.5), mode)
    assert chosen.apply(torch.tensor([-3, -2, -1, 0, 1, 2, 3])).tolist() == [-1, -1, 0, 0, 1, 1, 2]


def test_the_identity() -> None:
    for mode in _INTEGER_MODES:
        is_power = mode != "double_shift"
        assert rescale(torch.ones(3), mode).is_identity is (is_power or float(rescale(torch.ones(3), mode).value()[0]) == 1)
        assert not rescale(torch.tensor([1.0, 2.0]), mode).is_identity
    assert not rescale(torch.tensor(1.0), "float").is_identity
    assert exact_power(0).is_identity
    accumulators = torch.tensor([-(2**31), 2**31 - 1, 3])
    assert torch.equal(rescale(torch.tensor(1.0), "fixed_point_32").apply(accumulators), accumulators)


@pytest.mark.parametrize("scale", [0.0, -1.0, math.inf, math.nan, 2.0**31])
@pytest.mark.parametrize("mode", MODES)
def test_scales_beyond_reach(scale: float, mode: str) -> None:
    with pytest.raises(LoweringError, match="between two tensors is beyond any integer multiplier"):
        rescale(torch.tensor([1.0, scale], dtype=torch.float64), mode)


def test_a_16_bit_multiplier_reaches_up_to_2_to_the_15() -> None:
    assert nearest_scale(2.0**15 - 1, "fixed_point_16") == 2.0**15 - 1
    with pytest.raises(LoweringError, match="beyond a 16-bit multiplier: use fixed_point_32"):
        rescale(torch.tensor(2.0**15 + 1), "fixed_point_16")


def test_an_unknown_mode() -> None:
    with pytest.raises(LoweringError, match=r"Unknown requantization 'fixed_point'\. Did you mean 'fixed_point_"):
        rescale(torch.tensor(1.0), "fixed_point")


@given(
    st.lists(st.floats(-20, 10).map(lambda exponent: 2.0**exponent), min_size=1, max_size=5),
    st.sampled_from(_INTEGER_MODES),
    st.integers(2, 33),
)
def test_a_shared_shift(scales: list[float], mode: str, num_value_bits: int) -> None:
    """The sum stays within 62 bits; each multiplier is the nearest integer at the shift; a sixteenth of a code is all that they miss."""
    multipliers, shift = shared_shift(scales, mode, num_value_bits)
    assert 0 <= shift <= MAX_SHIFT
    largest = max(multipliers)
    assert sum(multipliers) * 2 ** (num_value_bits - 1) < 2**62
    missed = sum(abs(multiplier * 2.0**-shift - scale) for multiplier, scale in zip(multipliers, scales, strict=True))
    is_exact = missed * 2 ** (num_value_bits - 1) <= 1 / 16
    taken = num_value_bits + math.ceil(math.log2(max(2, len(scales))))
    assert is_exact or largest.bit_length() >= min(30, 61 - taken)
    assert largest < 2**15 or mode == "fixed_point_32" or not _is_exact_with(15, scales, num_value_bits)
    for multiplier, scale in zip(multipliers, scales, strict=True):
        assert abs(multiplier - scale * 2.0**shift) <= 1  # half, or where the largest was cut to its bits
    assert largest >= 2**13 or shift == MAX_SHIFT


def _is_exact_with(bits: int, scales: list[float], num_value_bits: int) -> bool:
    """Whether multipliers of so many bits are sure to move the result by a sixteenth of a code at most."""
    shift = bits - math.frexp(max(scales))[1]
    num_terms = 2 ** math.ceil(math.log2(max(2, len(scales))))
    return num_terms * 2.0 ** (num_value_bits - 1) * 2.0 ** -(shift + 1) <= 1 / 16  # each is off by half a unit


def test_a_fine_grid_beside_a_coarse_one_keeps_its_digits() -> None:
    """A tensor of 16 bits and one of 8 are added onto 16 bits: with 15 bits the smaller multiplier was off by 0.7 %, 222 codes."""
    scales = [0.02534857764840126 / 0.00010643998393788934, 5.693029015674256e-05 / 0.00010643998393788934]
    multipliers, shift = shared_shift(scales, "fixed_point_16", 17)
    assert sum(abs(m * 2.0**-shift - scale) for m, scale in zip(multipliers, scales, strict=True)) * 2**16 <= 1 / 16


@pytest.mark.parametrize("scale", [2.0**31, math.inf, 0.0])
def test_a_sum_beyond_reach(scale: float) -> None:
    with pytest.raises(LoweringError, match="between two tensors that are added is beyond an integer multiplier"):
        shared_shift([scale, 0.0], "fixed_point_16", 9)
