"""Matrix product of two activations, batched over the axes before the last two (which broadcast).

a[..., i, j] = sum over k of (q1[..., i, k] - z1) (q2[..., k, j] - z2)        y = clamp(rescale(a) + zero_point)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from halfstep.integer.operators.abstract import OPERATORS, AbstractRequantized, Values, aligned, in_float, product_bounds


@final
@OPERATORS.register("matmul")
@dataclass(frozen=True, eq=False)
class Matmul(AbstractRequantized):
    """Two inputs of at least two axes a sample."""

    def run(self, codes: Sequence[Tensor], values: Values) -> Tensor:
        """See the top of this file."""
        bounds = self.accumulator_bounds(values)
        one, other = (in_float(q - values[name].zero_point, bounds) for q, name in zip(aligned(codes), self.inputs, strict=True))
        return self.finish(torch.matmul(one, other).long(), values)

    def accumulator_bounds(self, values: Values) -> tuple[int, int]:
        """From the grids of the two inputs."""
        one, other = (values[name] for name in self.inputs)
        return product_bounds(one.centred_bounds, other.centred_bounds, one.shape[-1])
