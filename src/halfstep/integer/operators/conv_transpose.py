"""Transposed convolution in one to three axes.

    a[o, t * stride + k * dilation - padding] += (q[c, t] - zero_point) * w[c, o, k],    starting at bias[o]    y = clamp(rescale(a) + z)

The weight lies as PyTorch has it, input channels first. The bias holds no zero point: the number of terms differs from place to place.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

import torch.nn.functional as F
from torch import Tensor

from halfstep.integer.operators.abstract import OPERATORS, AbstractRequantized, Values, in_float, sum_bounds

_CONV = {1: F.conv_transpose1d, 2: F.conv_transpose2d, 3: F.conv_transpose3d}


@final
@OPERATORS.register("conv_transpose")
@dataclass(frozen=True, eq=False)
class ConvTranspose(AbstractRequantized):
    """weight: [C_in, C_out / groups, *kernel]. bias: [C_out]. padding: cut off at both ends. output_padding: added at the end."""

    weight: Tensor
    bias: Tensor
    stride: tuple[int, ...]
    padding: tuple[int, ...]
    output_padding: tuple[int, ...]
    dilation: tuple[int, ...]
    groups: int = 1

    def run(self, codes: Sequence[Tensor], values: Values) -> Tensor:
        """See the top of this file."""
        x = in_float(codes[0] - values[self.inputs[0]].zero_point, self.accumulator_bounds(values))
        convolve = _CONV[len(self.stride)]
        sums = convolve(x, self.weight.to(x.dtype), None, self.stride, self.padding, self.output_padding, self.groups, self.dilation).long()
        return self.finish(sums.add_(self.bias.view(-1, *[1] * len(self.stride))), values)

    def accumulator_bounds(self, values: Values) -> tuple[int, int]:
        """As if every tap met an input: wider than any place needs."""
        grouped = self.weight.unflatten(0, (self.groups, -1)).transpose(1, 2)  # [groups, C_out / groups, C_in / groups, *kernel]
        return sum_bounds(grouped.flatten(0, 1).flatten(1), *values[self.inputs[0]].centred_bounds, self.bias)
