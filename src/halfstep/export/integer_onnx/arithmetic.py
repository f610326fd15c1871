"""The arithmetic of an integer program in ONNX's integer operators.

    y = clamp(((a * multiplier + half) >> shift) + zero_point, low, high)

ONNX shifts unsigned integers alone, and ONNX Runtime's Clip, Min and Max of int64 are wrong beyond 32 bits on x86 (its pull request 25280).
So everything is taken in uint64, modulo 2^64, with 2^63 added, which keeps the order of the numbers:

    u = a * multiplier + half + 2^63,    v = (u >> shift) + zero_point + 2^63 - 2^(63 - shift),    y = clamp(v, low + 2^63, high + 2^63)

2^(63 - shift) is what the shift leaves of the first 2^63. The low 32 bits of the last line are those of y: a cast between integers keeps
the low bits (ONNX Cast). Unsigned sums wrap around by definition.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from halfstep.export.integer_onnx.writer import INT32, INT64, UINT64, Writer, storage
from halfstep.integer.operators import INT32 as INT32_BOUNDS
from halfstep.integer.operators import AbstractRequantized
from halfstep.integer.requantization import Rescale

_ORIGIN = 1 << 63  # what stands for 0 in uint64


def finish(writer: Writer, operator: AbstractRequantized, accumulator: ir.Value) -> ir.Value:
    """The codes of the operator's output, stored, from its accumulator [N, ...], int32 or int64."""
    num_axes = len(writer.program.values[operator.output].shape) + 1
    pairs = along(operator.rescale, num_axes - 1 - operator.channel_axis % num_axes)
    return requantize(writer, accumulator, pairs, operator.output, (operator.low, operator.high))


def along(rescale: Rescale, num_behind: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """(multiplier, shift), shaped for an axis with ``num_behind`` others behind it; scalars where there is one pair."""
    shape = () if rescale.multiplier.numel() == 1 else (-1, *[1] * num_behind)
    return rescale.multiplier.numpy().reshape(shape), rescale.shift.numpy().reshape(shape)


def requantize(
    writer: Writer, accumulator: ir.Value, pairs: tuple[NDArray[np.int64], NDArray[np.int64]], output: str, bounds: tuple[int, int]
) -> ir.Value:
    """The codes of ``output``, stored. pairs: (multiplier, shift), which broadcast. bounds: low and high."""
    value, (multiplier, shift) = writer.program.values[output], pairs
    is_identity = bool((multiplier == np.int64(1) << np.minimum(shift, 62)).all())
    if is_identity and value.zero_point == 0 and bounds == INT32_BOUNDS and accumulator.dtype == INT32:
        return accumulator
    total = writer.cast(writer.cast(accumulator, INT64), UINT64)
    if is_identity:
        multiplier, shift = np.array(1), np.array(0)
    if (multiplier != 1).any():
        total = writer.emit("Mul", [total, writer.constant(multiplier.astype(np.uint64), "multiplier")], UINT64)
    shifts: list[int] = shift.flatten().tolist()
    if shift.any():
        total = _plus(writer, total, [_ORIGIN + (1 << s >> 1) for s in shifts], shift, "half")
        total = writer.emit("BitShift", [total, writer.constant(shift.astype(np.uint64), "shift")], UINT64, direction="RIGHT")
        total = _plus(writer, total, [value.zero_point + _ORIGIN - (1 << (63 - s)) for s in shifts], shift, "zero_point")
    else:
        total = _plus(writer, total, [value.zero_point + _ORIGIN], np.array(0), "zero_point")
    ends = [writer.number(bound + _ORIGIN, UINT64) for bound in bounds]
    return writer.cast(writer.emit("Clip", [total, *ends], UINT64), storage(value))


def _plus(writer: Writer, total: ir.Value, numbers: list[int], like: NDArray[Any], what: str) -> ir.Value:
    added = np.array([number % (1 << 64) for number in numbers], np.uint64).reshape(like.shape)
    return writer.emit("Add", [total, writer.constant(added, what)], UINT64) if added.any() else total
