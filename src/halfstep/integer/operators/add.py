"""Sum of two tensors or more, each brought to the grid of the result by its own multiplier before they are summed.

    y = clamp(((sum_i m_i (q_i - z_i) + half) >> shift) + zero_point, low, high),        half = 2^(shift - 1), or 0 where shift is 0

One rounding for the whole sum. Operands broadcast; one may be subtracted (its multiplier is negative). 32 bits do for the sum where
`accumulator_bounds` says so: 8-bit operands and multipliers of up to 21 bits.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from halfstep.integer.operators.abstract import OPERATORS, AbstractOperator, Values, aligned, product_bounds
from halfstep.integer.requantization import MAX_SHIFT


@final
@OPERATORS.register("add")
@dataclass(frozen=True, eq=False)
class Add(AbstractOperator):
    """multipliers: one an input. low, high: codes, with a ReLU or clip that was fused in."""

    multipliers: tuple[int, ...]
    shift: int
    low: int
    high: int

    def run(self, codes: Sequence[Tensor], values: Values) -> Tensor:
        """See the top of this file."""
        terms = [(q.long() - values[name].zero_point) * m for q, name, m in zip(aligned(codes), self.inputs, self.multipliers, strict=True)]
        total = sum(terms[1:], terms[0]) + ((1 << self.shift) >> 1)
        return ((total >> self.shift) + values[self.output].zero_point).clamp(self.low, self.high).to(torch.int32)

    def accumulator_bounds(self, values: Values) -> tuple[int, int]:
        """Of the sum, half included; may pass 32 bits."""
        terms = [product_bounds(values[name].centred_bounds, (m, m)) for name, m in zip(self.inputs, self.multipliers, strict=True)]
        half = (1 << self.shift) >> 1
        return sum(low for low, _ in terms), sum(high for _, high in terms) + half

    def check(self, values: Values) -> None:
        """A sum within 63 bits, codes on the grid."""
        low, high = self.accumulator_bounds(values)
        grid = values[self.output].grid
        if not (0 <= self.shift <= MAX_SHIFT and max(-low, high) < 2**63 and grid.minimum <= self.low <= self.high <= grid.maximum):
            raise self.fail("its multipliers, shift or codes are out of bounds.")
