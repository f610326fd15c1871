"""Linear layer on the last axis.

    a[..., o] = bias[o] + sum over k of q[..., k] * w[o, k]        y = clamp(rescale(a) + zero_point)

bias: int32, with ``- zero_point * sum_k w`` folded in.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, final

import torch.nn.functional as F
from torch import Tensor

from halfstep.integer.operators.abstract import OPERATORS, AbstractRequantized, Values, in_float, sum_bounds


@final
@OPERATORS.register("linear")
@dataclass(frozen=True, eq=False)
class Linear(AbstractRequantized):
    """weight: [C_out, C_in]. bias: [C_out]. Input [..., C_in], output [..., C_out]."""

    channel_axis: ClassVar[int] = -1

    weight: Tensor
    bias: Tensor

    def run(self, codes: Sequence[Tensor], values: Values) -> Tensor:
        """See the top of this file."""
        x = in_float(codes[0], self.accumulator_bounds(values))
        return self.finish(F.linear(x, self.weight.to(x.dtype)).long().add_(self.bias), values)

    def accumulator_bounds(self, values: Values) -> tuple[int, int]:
        """From the actual codes of the weight."""
        grid = values[self.inputs[0]].grid
        return sum_bounds(self.weight, grid.minimum, grid.maximum, self.bias)

    def check(self, values: Values) -> None:
        """Sizes that fit each other."""
        super().check(values)
        x, y = values[self.inputs[0]].shape, values[self.output].shape
        if (*x[:-1], *self.weight.shape) != (*y[:-1], y[-1], x[-1]):
            raise self.fail(f"a weight of shape {list(self.weight.shape)} makes no {list(y)} of {list(x)}.")
