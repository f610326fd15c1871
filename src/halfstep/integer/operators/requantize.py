"""A tensor on another grid, clamped: a ReLU or clip by itself, or the meeting of two grids.

y = clamp(rescale(q - zero_point) + zero_point of y, low, high)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

from torch import Tensor

from halfstep.integer.operators.abstract import OPERATORS, AbstractRequantized, Values


@final
@OPERATORS.register("requantize")
@dataclass(frozen=True, eq=False)
class Requantize(AbstractRequantized):
    """One input, of the output's shape."""

    def run(self, codes: Sequence[Tensor], values: Values) -> Tensor:
        """See the top of this file."""
        return self.finish(codes[0].long() - values[self.inputs[0]].zero_point, values)

    def accumulator_bounds(self, values: Values) -> tuple[int, int]:
        """Of the centred codes."""
        return values[self.inputs[0]].centred_bounds
