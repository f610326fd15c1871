"""Tensors joined along an axis, each brought to the grid of the result by its own multiplier.

y[part i] = clamp(rescale_i(q_i - z_i) + zero_point, low, high)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from halfstep.integer.operators.abstract import INT32, OPERATORS, AbstractOperator, Values
from halfstep.integer.requantization import Rescale


@final
@OPERATORS.register("concat")
@dataclass(frozen=True, eq=False)
class Concat(AbstractOperator):
    """axis: of a sample, from 0. rescales: one an input, for the tensor as a whole. low, high: codes."""

    axis: int
    rescales: tuple[Rescale, ...]
    low: int
    high: int

    def run(self, codes: Sequence[Tensor], values: Values) -> Tensor:
        """See the top of this file."""
        parts = [
            rescale.apply(q.long() - values[name].zero_point) for q, name, rescale in zip(codes, self.inputs, self.rescales, strict=True)
        ]
        size = max(len(part) for part in parts)  # a constant is a batch of one
        joined = torch.cat([part.expand(size, *part.shape[1:]) for part in parts], self.axis + 1).add_(values[self.output].zero_point)
        return joined.clamp_(self.low, self.high).to(torch.int32)

    def accumulator_bounds(self, values: Values) -> tuple[int, int]:
        """Of the centred codes."""
        bounds = [values[name].centred_bounds for name in self.inputs]
        return min(low for low, _ in bounds), max(high for _, high in bounds)

    def check(self, values: Values) -> None:
        """Sizes that add up, centred codes within 32 bits, codes on the grid."""
        value = values[self.output]
        total = sum(values[name].shape[self.axis] for name in self.inputs)
        if total != value.shape[self.axis]:
            raise self.fail(f"its inputs have {total} entries along axis {self.axis}, its output {value.shape[self.axis]}.")
        low, high = self.accumulator_bounds(values)
        if low < INT32[0] or high > INT32[1] or not value.grid.minimum <= self.low <= self.high <= value.grid.maximum:
            raise self.fail("its inputs or its codes are out of bounds.")
