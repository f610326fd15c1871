"""Layer, RMS, group and instance norm: entries of a group less their mean, over their standard deviation, times a weight, plus a bias.

    c_i = n (q_i - z) - sum_j (q_j - z)                          n times the centred entry; RMS norm: n (q_i - z)
    v = 4^guard (n sum_j (q_j - z)^2 - (sum_j (q_j - z))^2) + epsilon        4^guard n^2 times the variance; RMS: without the second sum
    r = root(4^k v),    4^k v in 2^60 .. 2^62 - 1                the root, 31 bits of it
    u_i = (c_i * (2^61 // r) + half) >> (45 - k - guard)         the normalized entry, in units of 2^-16
    y_i = clamp(((u_i w_i + (b_i << bias_shift) + half) >> shift) + zero_point of y, low, high)

n: entries of a group. z: zero point of the input. epsilon >= 1: that of the norm, times 4^guard n^2 and over the squared scale. Weight and
bias hold the scale of y. root: r = 2^31, five times r = (r + v // r) >> 1 (Newton), which is exact to the last bit or one off: the ratio to
the true root falls from at most 2 to 1.25, 1.025, 1.0003, 1 + 5e-8, 1 + 1e-15. Everything is a whole number below 2^63.

Kim et al. 2021, "I-BERT: Integer-only BERT Quantization", section 3.6 (the root by Newton's iteration; Crandall and Pomerance 2006).
Deviation: the variance is scaled to 61 or 62 bits first, so that five steps do for any of them, and no bit of the mean is lost.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, final

import torch
from torch import Tensor

from halfstep.integer.operators.abstract import INT32, OPERATORS, AbstractOperator, Values
from halfstep.integer.requantization import MAX_SHIFT
from halfstep.integer.value import Value

FRACTION: Final = 16  # bits of a normalized entry behind the point
NUM_STEPS: Final = 5
MOST_GUARD: Final = 14  # the last shift above stays positive even where v is 1
_MOST = 2**30


@final
@OPERATORS.register("layer_norm")
@dataclass(frozen=True, eq=False)
class LayerNorm(AbstractOperator):
    """A sample, in row-major order, is ``num_groups`` groups of equal size. is_centred: false for RMS norm.

    weight, bias: int32 [count]; entry j of a sample has number ``(j // inner) % count``. low, high: codes, with a fused ReLU or clip.
    """

    num_groups: int
    is_centred: bool
    guard: int
    epsilon: int
    weight: Tensor
    bias: Tensor
    inner: int
    bias_shift: int
    shift: int
    low: int
    high: int

    def run(self, codes: Sequence[Tensor], values: Values) -> Tensor:
        """See the top of this file."""
        x = (codes[0].long() - values[self.inputs[0]].zero_point).view(len(codes[0]), self.num_groups, -1)
        n = x.shape[-1]
        sums = x.sum(-1, keepdim=True) if self.is_centred else 0
        variance = n * (x * x).sum(-1, keepdim=True) - sums * sums
        root, k = _root((variance << 2 * self.guard) + self.epsilon)
        shift = 45 - self.guard - k
        normalized = ((n * x - sums) * (2**61 // root) + (1 << (shift - 1))) >> shift
        weight, bias = (part.long()[self.places(x[0].numel())].view(x.shape[1:]) for part in (self.weight, self.bias))
        total = normalized * weight + (bias << self.bias_shift) + ((1 << self.shift) >> 1)
        made = (total >> self.shift) + values[self.output].zero_point
        return made.clamp_(self.low, self.high).view(codes[0].shape).to(torch.int32)

    def places(self, size: int) -> Tensor:
        """The number of each of ``size`` entries in ``weight`` and ``bias``."""
        return torch.arange(size) // self.inner % len(self.weight)

    @staticmethod
    def most_guard(n: int, x: Value) -> int:
        """The largest guard with which sums over ``n`` codes of ``x`` stay below 2^63; negative where none does."""
        reach = 2 * n * max(-x.centred_bounds[0], x.centred_bounds[1])
        return min(MOST_GUARD, 30 - (reach - 1).bit_length())

    def check(self, values: Values) -> None:
        """Everything below 2^63, whatever the codes are."""
        x, grid = values[self.inputs[0]], values[self.output].grid
        if x.shape != values[self.output].shape or x.size % max(1, self.num_groups) or len(self.weight) != len(self.bias):
            raise self.fail("its groups, weight or bias do not fit its input.")
        n = x.size // self.num_groups
        if self.most_guard(n, x) < self.guard or not (1 <= self.epsilon <= _MOST**2 and self.guard >= 0):
            raise self.fail(f"its sums over {n} entries can pass 63 bits. Give its input fewer bits with an override in the recipe.")
        largest, added = (int(part.abs().max()) for part in (self.weight, self.bias))
        reach = (math.isqrt(n) + 2) * largest << FRACTION
        is_small = max(largest, added) <= INT32[1] and reach + (added << self.bias_shift) + (1 << self.shift) < 2**62
        if not (is_small and 0 <= self.shift <= MAX_SHIFT and grid.minimum <= self.low <= self.high <= grid.maximum):
            raise self.fail("its weight, bias, shift or codes are out of bounds.")


def _root(v: Tensor) -> tuple[Tensor, Tensor]:
    """(root of 4^k v, k) of int64 numbers from 1 to 2^62 - 1."""
    k = torch.zeros_like(v)
    for bits in (32, 16, 8, 4, 2):
        is_small = v < 1 << (62 - bits)
        v, k = torch.where(is_small, v << bits, v), k + is_small * (bits // 2)
    root = torch.full_like(v, 2**31)
    for _ in range(NUM_STEPS):
        root = (root + v // root) >> 1
    return root, k
