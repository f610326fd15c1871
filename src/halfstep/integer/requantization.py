"""The integer multiply that stands for a real scale: from an accumulator to the codes of the next tensor.

    y = ((a * multiplier + half) >> shift),   half = 2^(shift - 1), or 0 where shift is 0        stands for   round(a * S)

a: the accumulator, 32 bits. S > 0: the real ratio of the accumulator's scale to that of the result, one for the tensor or one a channel.
The product and the sum are taken in 64 bits; ``>>`` is arithmetic, so a half is rounded up, towards plus infinity, for either sign. That is
the only rounding rule of the integer program. A mode says which pairs (multiplier, shift) may stand for S:

mode               multiplier                      shift     stands for
fixed_point_32     31 bits                         0 .. 62   S to 2^-24 or better          (Jacob et al. 2018, section 2.2)
fixed_point_16     15 bits                         0 .. 46   S to 2^-15
single_shift       1, or 2^k to the left           0 .. 31   the nearest power of two
double_shift       1 + 2^d, or that times 2^k      0 .. 31   2^-n + 2^-m, the nearest one, n <= m
float              none: floor(a * S + 0.5)                  S in float64, for comparison only

The last three are the rescaling modes of N2D2 (CEA List, "Post-training quantization"), whose shifts are found greedily and whose weights
are shrunk to make up for the difference; here the nearest pair is taken, left shifts (S > 1) are pairs like any other, and scales that suit
a shift are chosen before rounding (`steps/shift_scales.py`), not afterwards.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from halfstep.errors import LoweringError, did_you_mean

MAX_ERROR = 2.0**-8
"""How far a multiplier may be from its real scale, relative to it: a tensor of 8 bits is moved by one code at its end."""
MAX_SHIFT = 62  # half, 2^61, and a product of 31 and 31 bits fit into 64 bits together
_NUM_EXACT_BITS = 2  # so many beyond those of the sum: its rounded multipliers move it by 2^-4 of a code at most
_NUM_SHARED_BITS = 24  # that the smallest multiplier keeps where all channels share one shift


@dataclass(frozen=True, eq=False)
class Rescale:
    """multiplier, shift: int64, shape [1] or [C]. real: S in float64 in the mode ``float``, else None. mode: see the top of this file."""

    mode: str
    multiplier: Tensor
    shift: Tensor
    real: Tensor | None = None

    def apply(self, accumulator: Tensor, channel_axis: int = 0) -> Tensor:
        """``accumulator`` (int64, any shape, C entries along ``channel_axis``) on the next scale, before its zero point and clamp."""
        shape = [1] * accumulator.ndim
        if self.multiplier.numel() > 1:
            shape[channel_axis] = -1
        if self.real is not None:
            return torch.floor(accumulator.double() * self.real.view(shape) + 0.5).clamp(-(2.0**62), 2.0**62).long()
        multiplier, shift = self.multiplier.view(shape), self.shift.view(shape)
        half = torch.where(shift > 0, torch.ones_like(shift) << (shift - 1).clamp(min=0), 0)
        return (accumulator * multiplier).add_(half).bitwise_right_shift_(shift)

    def value(self) -> Tensor:
        """The real numbers it multiplies by, float64, shape [1] or [C]."""
        return self.real if self.real is not None else self.multiplier.double() * torch.exp2(-self.shift.double())

    def at(self, index: Tensor) -> Rescale:
        """The entries at ``index``, as channels of their own."""
        return Rescale(self.mode, self.multiplier[index], self.shift[index], None if self.real is None else self.real[index])

    @property
    def is_identity(self) -> bool:
        """Whether it changes no accumulator."""
        return self.real is None and bool((self.multiplier == torch.ones_like(self.shift) << self.shift.clamp(max=31)).all())


def rescale(scale: Tensor, mode: str) -> Rescale:
    """The `Rescale` of ``mode`` nearest to ``scale`` (positive, shape [] or [C]); `LoweringError` where a scale is out of its reach."""
    find = check_mode(mode)
    real = scale.double().reshape(-1)
    if not bool((torch.isfinite(real) & (real > 0) & (real < 2.0**31)).all()):
        raise LoweringError(f"A scale of {float(real.max()):.3g} between two tensors is beyond any integer multiplier (below 2^31).")
    return find(real)


def check_mode(mode: str) -> Callable[[Tensor], Rescale]:
    """How a mode finds its multipliers; `LoweringError` on an unknown name."""
    if mode not in _MODES:
        raise LoweringError(f"Unknown requantization '{mode}'. {did_you_mean(mode, _MODES)}")
    return _MODES[mode]


def exact_power(exponent: int) -> Rescale:
    """Multiplication by 2^exponent, exactly where it is not negative."""
    return _of_pair("single_shift", torch.tensor([1 << max(0, exponent)]), torch.tensor([max(0, -exponent)]))


def _of_pair(mode: str, multiplier: Tensor, shift: Tensor) -> Rescale:
    return Rescale(mode, multiplier.long(), shift.long())


def _fixed_point_32(real: Tensor) -> Rescale:
    """One shift for all channels where the smallest multiplier keeps 24 bits (a loop then shifts by a constant), else one each."""
    shift = _normalizing_shift(real, 31)
    shared = shift.min().expand_as(shift)
    shift = shared if bool(real.min() * torch.exp2(shared[0].double()) >= 2 ** (_NUM_SHARED_BITS - 1)) else shift
    return _of_pair("fixed_point_32", torch.round(real * torch.exp2(shift.double())).clamp(max=2**31 - 1), shift)


def _fixed_point_16(real: Tensor) -> Rescale:
    shift = _normalizing_shift(real, 15)
    multiplier = torch.round(real * torch.exp2(shift.double()))
    largest = 2**15 - 1
    if bool((multiplier > largest).any() and ((shift == 0) & (multiplier > largest)).any()):
        raise LoweringError(f"A scale of {float(real.max()):.3g} between two tensors is beyond a 16-bit multiplier: use fixed_point_32.")
    return _of_pair("fixed_point_16", multiplier.clamp(max=largest), shift)


def _normalizing_shift(real: Tensor, bits: int) -> Tensor:
    """The shift with which ``real`` becomes an integer of ``bits`` bits, highest one set, as far as 0 .. 62 allow."""
    exponent = torch.frexp(real)[1].long()  # real < 2^exponent
    return (bits - exponent).clamp(0, min(MAX_SHIFT, 31 + bits))


def _single_shift(real: Tensor) -> Rescale:
    exponent = _nearest_exponent(real, 30)
    return _of_pair("single_shift", torch.ones_like(exponent) << exponent.clamp(min=0), (-exponent).clamp(0, MAX_SHIFT))


def _nearest_exponent(real: Tensor, largest: int) -> Tensor:
    """The e with 2^e nearest to ``real`` as a ratio, at most ``largest``: the multiplier stays within 31 bits."""
    return torch.round(torch.log2(real)).long().clamp(-MAX_SHIFT, largest)


def _double_shift(real: Tensor) -> Rescale:
    """``2^-n + 2^-m = (1 + 2^(m - n)) 2^-m``: of all distances m - n the one whose sum lies nearest."""
    distances = torch.arange(16)
    factor = (1 + 2.0**distances).double()
    exponent = _nearest_exponent(real[:, None] / factor, 14)  # -m
    error = (factor * torch.exp2(exponent.double()) / real[:, None] - 1).abs()
    best = error.argmin(1, keepdim=True)
    exponent, distance = exponent.gather(1, best)[:, 0], distances[best[:, 0]]
    multiplier = (1 + (torch.ones_like(distance) << distance)) << exponent.clamp(min=0)
    return _of_pair("double_shift", multiplier, (-exponent).clamp(0, MAX_SHIFT))


def _float(real: Tensor) -> Rescale:
    exact = _fixed_point_32(real)
    return Rescale("float", exact.multiplier, exact.shift, real)


_MODES: dict[str, Callable[[Tensor], Rescale]] = {
    "fixed_point_32": _fixed_point_32,
    "fixed_point_16": _fixed_point_16,
    "single_shift": _single_shift,
    "double_shift": _double_shift,
    "float": _float,
}
MODES = tuple(_MODES)
DEFAULT_MODE = "fixed_point_32"
SHIFT_MODES = ("single_shift", "double_shift")


def nearest_scale(real: float, mode: str) -> float:
    """The real number that ``mode`` puts in the place of ``real``."""
    return float(rescale(torch.tensor(real, dtype=torch.float64), mode).value())


def relative_error(scale: Tensor, chosen: Rescale) -> float:
    """The largest ``|chosen / scale - 1|`` over the channels; those apart whose accumulator of 32 bits makes no code at all."""
    real = scale.double().reshape(-1)
    error = (chosen.value() / real - 1).abs()
    return float(torch.where(real < 2.0**-32, 0.0, error).max())


def shared_shift(scales: list[float], mode: str, num_value_bits: int) -> tuple[tuple[int, ...], int]:
    """Multipliers and the one shift of an addition: ``sum_i m_i v_i`` over values of ``num_value_bits`` bits.

    scales: the ratio of each operand's scale to the result's, positive. The largest multiplier has 15 bits in ``fixed_point_16`` and in the
    shift modes, in which an addition keeps its multipliers, else as many as leave the sum within 31 bits; where 15 bits do not, up to 30.
    Where a rounded multiplier could move the result by a sixteenth of a code (a fine grid beside a coarse one has the smaller multiplier,
    values of 16 bits have larger products) it has as many bits as that takes in any mode. Sums beyond 31 bits are taken in 64.
    """
    taken = num_value_bits + math.ceil(math.log2(max(2, len(scales))))
    bits = 15 if mode in ("fixed_point_16", *SHIFT_MODES) else 30 - taken if taken <= 15 else 30
    largest = max(scales)
    if not (math.isfinite(largest) and largest > 0):
        raise LoweringError(f"A scale of {largest:.3g} between two tensors that are added is beyond an integer multiplier.")
    exponent = math.frexp(largest)[1]
    needed = exponent + taken + _NUM_EXACT_BITS
    bits = min(max(bits, needed), 30, 61 - taken)
    if largest >= 2.0**bits:
        raise LoweringError(f"A scale of {largest:.3g} between two tensors that are added is beyond an integer multiplier.")
    shift = max(0, min(MAX_SHIFT, bits - exponent))
    return tuple(min((1 << bits) - 1, round(scale * 2.0**shift)) for scale in scales), shift
