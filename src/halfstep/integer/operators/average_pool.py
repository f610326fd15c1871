"""The mean of each window, in one to three axes.

    a[c, t] = sum over the window of (q - zero_point)        y = clamp(rescale_n(a) + zero_point of y)

Outside the input a window reads zeros. n: what the sum is divided by, the product of ``counts`` at the window's place along each axis;
there is one rescale for each different n, which holds 1 / n and the ratio of the scales together.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

import torch
import torch.nn.functional as F
from torch import Tensor

from halfstep.integer.operators.abstract import OPERATORS, AbstractRequantized, Values, in_float, product_bounds

_POOL = {1: F.avg_pool1d, 2: F.avg_pool2d, 3: F.avg_pool3d}


@final
@OPERATORS.register("average_pool")
@dataclass(frozen=True, eq=False)
class AveragePool(AbstractRequantized):
    """padding: (before, after) of each axis. counts: for each axis and place, how many entries count. divisors: the different products of
    counts, ascending; the rescale has one entry for each.
    """

    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    padding: tuple[tuple[int, int], ...]
    counts: tuple[tuple[int, ...], ...]
    divisors: tuple[int, ...]

    def divisor_index(self) -> Tensor:
        """For every place of the output, which of ``divisors`` it has; int64, the output's spatial shape."""
        axes = [torch.tensor(counts) for counts in self.counts]
        products = functools.reduce(lambda total, axis: total[..., None] * axis, axes)
        return torch.searchsorted(torch.tensor(self.divisors), products)

    def run(self, codes: Sequence[Tensor], values: Values) -> Tensor:
        """See the top of this file."""
        x = in_float(codes[0] - values[self.inputs[0]].zero_point, self.accumulator_bounds(values))
        around = [size for pair in reversed(self.padding) for size in pair]
        x = F.pad(x, around) if any(around) else x
        count = self._count()
        sums = torch.round(_POOL[len(self.kernel)](x.double(), self.kernel, self.stride) * count).long()
        places = self.divisor_index().flatten()
        chosen = self.rescale if len(self.divisors) == 1 else self.rescale.at(places)
        flat = chosen.apply(sums.flatten(2), 2).view_as(sums).add_(values[self.output].zero_point)
        return flat.clamp_(self.low, self.high).to(torch.int32)

    def _count(self) -> int:
        return functools.reduce(lambda total, size: total * size, self.kernel, 1)

    def accumulator_bounds(self, values: Values) -> tuple[int, int]:
        """From the grid of the input."""
        return product_bounds(values[self.inputs[0]].centred_bounds, (1, 1), self._count())
