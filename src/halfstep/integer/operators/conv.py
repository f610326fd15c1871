"""Convolution in one to three axes, grouped and depthwise too.

    a[o, t] = bias[o] + sum over c, k of q[c, t * stride + k * dilation - padding] * w[o, c, k]        y = clamp(rescale(a) + zero_point)

q: codes of the input; outside of it the code of the value 0 is read, its zero point. w: codes of the weight, zero point 0. bias: int32,
with ``- zero_point * sum_k w`` folded in, so that the codes themselves are multiplied.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

import torch.nn.functional as F
from torch import Tensor

from halfstep.integer.operators.abstract import OPERATORS, AbstractRequantized, Values, in_float, sum_bounds

_CONV = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}


@final
@OPERATORS.register("conv")
@dataclass(frozen=True, eq=False)
class Conv(AbstractRequantized):
    """weight: [C_out, C_in / groups, *kernel]. bias: [C_out]. padding: (before, after) of each axis. [C_in, ...] to [C_out, ...]."""

    weight: Tensor
    bias: Tensor
    stride: tuple[int, ...]
    padding: tuple[tuple[int, int], ...]
    dilation: tuple[int, ...]
    groups: int = 1

    def run(self, codes: Sequence[Tensor], values: Values) -> Tensor:
        """See the top of this file."""
        bounds = self.accumulator_bounds(values)
        x = in_float(codes[0], bounds)
        around = [size for pair in reversed(self.padding) for size in pair]
        if any(around):
            x = F.pad(x, around, value=values[self.inputs[0]].zero_point)
        convolve = _CONV[len(self.stride)]
        sums = convolve(x, self.weight.to(x.dtype), None, self.stride, 0, self.dilation, self.groups).long()
        return self.finish(sums.add_(self.bias.view(-1, *[1] * len(self.stride))), values)

    def accumulator_bounds(self, values: Values) -> tuple[int, int]:
        """From the actual codes of the weight."""
        grid = values[self.inputs[0]].grid
        return sum_bounds(self.weight.flatten(1), grid.minimum, grid.maximum, self.bias)

    def check(self, values: Values) -> None:
        """Sizes that fit each other."""
        super().check(values)
        x, y = values[self.inputs[0]].shape, values[self.output].shape
        reach = [d * (k - 1) + 1 for d, k in zip(self.dilation, self.weight.shape[2:], strict=True)]
        sizes = [
            (size + sum(pair) - far) // step + 1 for size, pair, far, step in zip(x[1:], self.padding, reach, self.stride, strict=True)
        ]
        if self.weight.shape[1] * self.groups != x[0] or (self.weight.shape[0], *sizes) != y:
            raise self.fail(f"a weight of shape {list(self.weight.shape)} makes no {list(y)} of {list(x)}.")
