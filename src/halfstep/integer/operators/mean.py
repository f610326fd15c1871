"""The mean over some axes; over all axes behind the channels it is the global average pooling.

    a = sum over the axes of (q - zero_point)        y = clamp(rescale(a) + zero_point of y)

The rescale holds the division by the number of entries and the ratio of the scales together.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from halfstep.integer.operators.abstract import OPERATORS, AbstractRequantized, Values, product_bounds


@final
@OPERATORS.register("mean")
@dataclass(frozen=True, eq=False)
class Mean(AbstractRequantized):
    """axes: of a sample, from 0, ascending. The output has the input's shape with those axes of size 1, or without them."""

    axes: tuple[int, ...]

    def run(self, codes: Sequence[Tensor], values: Values) -> Tensor:
        """See the top of this file."""
        x = codes[0].long() - values[self.inputs[0]].zero_point
        sums = x.sum([axis + 1 for axis in self.axes]).view(len(x), *values[self.output].shape)
        return self.finish(sums, values)

    def count(self, values: Values) -> int:
        """How many entries each mean is taken over."""
        shape = values[self.inputs[0]].shape
        return int(torch.tensor([shape[axis] for axis in self.axes]).prod())

    def accumulator_bounds(self, values: Values) -> tuple[int, int]:
        """From the grid of the input."""
        return product_bounds(values[self.inputs[0]].centred_bounds, (1, 1), self.count(values))
