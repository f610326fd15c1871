"""Product of two tensors, entry by entry; the two broadcast.

a = (q1 - z1) (q2 - z2)        y = clamp(rescale(a) + zero_point)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

from torch import Tensor

from halfstep.integer.operators.abstract import OPERATORS, AbstractRequantized, Values, aligned, product_bounds


@final
@OPERATORS.register("mul")
@dataclass(frozen=True, eq=False)
class Mul(AbstractRequantized):
    """Two inputs."""

    def run(self, codes: Sequence[Tensor], values: Values) -> Tensor:
        """See the top of this file."""
        one, other = (q.long() - values[name].zero_point for q, name in zip(aligned(codes), self.inputs, strict=True))
        return self.finish(one * other, values)

    def accumulator_bounds(self, values: Values) -> tuple[int, int]:
        """From the grids of the two inputs."""
        one, other = (values[name].centred_bounds for name in self.inputs)
        return product_bounds(one, other)
