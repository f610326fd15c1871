"""The largest code of each window, in one to three axes. Codes of one grid are ordered as their values are, so nothing is rounded.

y[c, t] = max over k of q[c, t * stride + k * dilation - padding], of those that lie inside the input
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

import torch
import torch.nn.functional as F
from torch import Tensor

from halfstep.integer.operators.abstract import OPERATORS, AbstractMovement, Values

_POOL = {1: F.max_pool1d, 2: F.max_pool2d, 3: F.max_pool3d}


@final
@OPERATORS.register("max_pool")
@dataclass(frozen=True, eq=False)
class MaxPool(AbstractMovement):
    """padding: (before, after) of each axis, already with what rounding the output's size up adds. Every window holds an input."""

    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    padding: tuple[tuple[int, int], ...]
    dilation: tuple[int, ...]

    def run(self, codes: Sequence[Tensor], values: Values) -> Tensor:
        """See the top of this file."""
        x = codes[0].to(torch.float32 if values[self.output].grid.bits <= 16 else torch.float64)
        around = [size for pair in reversed(self.padding) for size in pair]
        x = F.pad(x, around, value=float("-inf")) if any(around) else x
        return _POOL[len(self.kernel)](x, self.kernel, self.stride, 0, self.dilation).to(torch.int32)

    def check(self, values: Values) -> None:
        """No window that lies in the padding alone."""
        super().check(values)
        shapes = values[self.inputs[0]].shape[1:], values[self.output].shape[1:]
        for size, places, *window in zip(*shapes, self.kernel, self.stride, self.dilation, self.padding, strict=True):
            kernel, stride, dilation, (before, _) = window
            starts = [place * stride - before for place in range(places)]
            if any(not any(0 <= start + tap * dilation < size for tap in range(kernel)) for start in starts):
                raise self.fail("a window holds no entry of its input, only padding.")
