"""Codes in as few bytes as they need: 2, 3, 4, 8 or 16 bits each, 32 for biases and multipliers, 64 where those do not do.

Codes are written as a stream of bits, the first code in the lowest bits of the first byte, each in two's complement; the last byte is
filled up with zeros. At 4 bits that is two codes a byte, the first in the lower half; at 3 bits eight codes in three bytes. Codes that are
never negative, such as those of an unsigned table, are written less half of what the bits can hold (`offset`).
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

WIDTHS = (2, 3, 4, 8, 16, 32, 64)


def width_of(codes: Tensor) -> int:
    """The fewest bits of `WIDTHS` that hold every code, signed."""
    low, high = (0, 0) if codes.numel() == 0 else (int(bound) for bound in torch.aminmax(codes))
    return next(width for width in WIDTHS if -(1 << (width - 1)) <= low and high < 1 << (width - 1))


def offset_of(codes: Tensor) -> int:
    """What is taken off every code where that saves bits: half of what the next smaller width holds, else 0."""
    if codes.is_floating_point() or not codes.numel() or int(codes.min()) < 0:
        return 0
    smaller = next((width for width in reversed(WIDTHS) if width < width_of(codes)), 0)
    return 1 << (smaller - 1) if smaller and int(codes.max()) < 1 << smaller else 0


def packed_bytes(codes: Tensor) -> int:
    """How many bytes `pack` makes of the codes."""
    return -(-codes.numel() * width_of(codes - offset_of(codes)) // 8)


def pack(codes: Tensor) -> tuple[Tensor, dict[str, Any]]:
    """(bytes: uint8 [n], what `unpack` needs to know). A float64 tensor travels as it is."""
    if codes.is_floating_point():
        return codes.contiguous(), {"bits": 0, "shape": list(codes.shape)}
    offset = offset_of(codes)
    shifted = codes - offset
    bits = width_of(shifted)
    described = {"bits": bits, "shape": list(codes.shape), **({"offset": offset} if offset else {})}
    return torch.from_numpy(packed(shifted.numpy(), bits)), described


def unpack(stored: Tensor, described: dict[str, Any]) -> Tensor:
    """The inverse of `pack`: int64, or float64."""
    bits, shape = described["bits"], described["shape"]
    if bits == 0:
        return stored.view(shape)
    codes = torch.from_numpy(unpacked(stored.numpy(), bits, int(np.prod(shape, dtype=np.int64)))).view(shape)
    return codes + int(described.get("offset", 0))


def packed(codes: NDArray[Any], bits: int) -> NDArray[np.uint8]:
    """The stream of bits as uint8; ``codes`` of any shape in their order in memory."""
    flat = np.ascontiguousarray(codes, np.int64).reshape(-1)
    if bits >= 8:
        whole: NDArray[np.uint8] = np.frombuffer(flat.astype(f"<i{bits // 8}").tobytes(), np.uint8).copy()
        return whole
    planes = (flat[:, None] >> np.arange(bits)) & 1
    stream: NDArray[np.uint8] = np.packbits(planes.astype(np.uint8).reshape(-1), bitorder="little")
    return stream


def unpacked(stored: NDArray[np.uint8], bits: int, count: int) -> NDArray[np.int64]:
    """``count`` codes of ``bits`` bits each, int64 [count]."""
    if bits >= 8:
        return np.frombuffer(stored.tobytes(), f"<i{bits // 8}").astype(np.int64)[:count]
    planes = np.unpackbits(stored, count=count * bits, bitorder="little").reshape(count, bits).astype(np.int64)
    codes: NDArray[np.int64] = (planes << np.arange(bits)).sum(1)
    return np.where(codes >= 1 << (bits - 1), codes - (1 << bits), codes)
