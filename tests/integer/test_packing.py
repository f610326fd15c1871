"""Codes as a stream of bits: nothing is lost, and the bytes are those of the description."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from halfstep.integer.packing import WIDTHS, pack, packed, packed_bytes, unpack, unpacked, width_of


@st.composite
def _codes(draw: st.DrawFn) -> tuple[list[int], int]:
    """Codes of one of the widths, and the width."""
    bits = draw(st.sampled_from(WIDTHS))
    low, high = -(1 << (bits - 1)), (1 << (bits - 1)) - 1
    return draw(st.lists(st.integers(low, high) | st.sampled_from([low, high, 0]), max_size=40)), bits


@given(_codes())
def test_round_trip(drawn: tuple[list[int], int]) -> None:
    codes, bits = drawn
    stored = packed(np.array(codes, np.int64), bits)
    assert stored.dtype == np.uint8
    assert len(stored) == -(-len(codes) * bits // 8)
    assert unpacked(stored, bits, len(codes)).tolist() == codes


@given(_codes())
def test_the_stream_of_bits(drawn: tuple[list[int], int]) -> None:
    """As one large number: the first code in its lowest bits."""
    codes, bits = drawn
    stream = sum((code % (1 << bits)) << (bits * index) for index, code in enumerate(codes))
    assert int.from_bytes(packed(np.array(codes, np.int64), bits).tobytes(), "little") == stream


@given(_codes(), st.integers(1, 3))
def test_tensors_of_any_shape(drawn: tuple[list[int], int], rows: int) -> None:
    codes = torch.tensor(drawn[0] * rows, dtype=torch.int64).view(rows, -1) if drawn[0] else torch.zeros(rows, 0, dtype=torch.int64)
    stored, described = pack(codes)
    assert torch.equal(unpack(stored, described), codes)
    assert stored.numel() == packed_bytes(codes)
    assert described["bits"] <= width_of(codes) <= drawn[1]


@pytest.mark.parametrize(
    ("codes", "bits", "offset"),
    [
        ([0, 255], 8, 128), ([0, 256], 16, 0), ([-1, 200], 16, 0), ([127], 8, 0), ([3], 2, 2), ([15, 9], 4, 8), ([65535], 16, 32768),
        ([2**32 - 1], 32, 2**31), ([1], 2, 0), ([], 2, 0), ([16], 8, 0),
    ],
)  # fmt: skip
def test_codes_that_are_never_negative_take_no_bit_for_a_sign(codes: list[int], bits: int, offset: int) -> None:
    stored, described = pack(torch.tensor(codes, dtype=torch.int64))
    assert (described["bits"], described.get("offset", 0)) == (bits, offset)
    assert unpack(stored, described).tolist() == codes


@pytest.mark.parametrize(
    ("codes", "bits"),
    [
        ([], 2), ([0], 2), ([-2, 1], 2), ([2], 3), ([-3], 3), ([-4, 3], 3), ([4], 4), ([7, -8], 4), ([8], 8), ([127], 8), ([128], 16),
        ([-32768], 16), ([32768], 32), ([2**31 - 1], 32), ([-(2**31)], 32), ([2**31], 64), ([-(2**63)], 64),
    ],
)  # fmt: skip
def test_the_fewest_bits(codes: list[int], bits: int) -> None:
    assert width_of(torch.tensor(codes, dtype=torch.int64)) == bits


def test_the_order_of_memory_is_that_of_the_rows() -> None:
    codes = torch.arange(6).view(2, 3).T
    assert torch.equal(unpack(*pack(codes)), codes)


def test_two_codes_a_byte_and_eight_in_three() -> None:
    assert packed(np.array([1, -2]), 4).tolist() == [0xE1]
    assert packed(np.array([1, 2, 3, -4, -3, -2, -1, 0]), 3).tolist() == [0b11010001, 0b01011000, 0b00011111]


def test_floats_travel_as_they_are() -> None:
    real = torch.tensor([[0.1, 2.0**-60]], dtype=torch.float64)
    assert torch.equal(unpack(*pack(real)), real)
