"""Softmax along an axis, in integers: powers of two instead of exponentials, one division a row.

    t_i = ((q_i - zero_point) << guard) + bias_i,       t_i = HIDDEN where bias_i is HIDDEN or the code of ``keep`` stands for 0
    x_i = (max_j t_j - t_i) rescaled                    the distance to the largest score, in units of 2^-16 octaves, at most 2^21 - 1
    e_i = (COARSE[f >> 8] * FINE[f & 255]) >> (30 + o)  2^30 2^(-x_i / 2^16), where o = x_i >> 16 and f = x_i & 65535
    y_i = clamp(((e_i * (numerator // sum_j e_j) + half) >> precision) + zero_point of y, grid)

The rescale holds the scale of the scores times log2(e), since exp(-v) = 2^(-v log2 e). numerator / 2^precision is 1 over the scale of y.
COARSE[k] = round(2^(30 - k / 256)), FINE[k] = round(2^(30 - k / 65536)). Everything is a whole number below 2^63. bias: what is added to
the scores (masks, positions), in units of their scale / 2^guard. A row that is hidden altogether is uniform.

Splitting off the octaves: Kim et al. 2021, "I-BERT: Integer-only BERT Quantization", section 3.5; base 2 and shifts: Li and Gu 2023,
"I-ViT: Integer-only Quantization for Efficient Vision Transformer Inference", section 3.3 (Shiftmax). Deviation: two tables of 256 entries
instead of their polynomials, which are off by 2 and 6 %: here a power is off by 2^-16 at most, a code by half a step and 2^-15 of 1.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, final

import torch
from torch import Tensor

from halfstep.integer.operators.abstract import OPERATORS, AbstractOperator, Values, aligned
from halfstep.integer.requantization import MAX_SHIFT, Rescale

HIDDEN: Final = -(2**30)
MOST_BIAS: Final = 2**28
MOST_DISTANCE: Final = 2**21 - 1  # 32 octaves less a bit: beyond, 2^30 times the power is 0
_UNIT = 30  # bits of a power of two that stands for 1


def coarse_table() -> Tensor:
    """COARSE: int64 [256]."""
    return torch.round(torch.exp2(_UNIT - torch.arange(256, dtype=torch.float64) / 2**8)).long()


def fine_table() -> Tensor:
    """FINE: int64 [256]."""
    return torch.round(torch.exp2(_UNIT - torch.arange(256, dtype=torch.float64) / 2**16)).long()


@final
@OPERATORS.register("softmax")
@dataclass(frozen=True, eq=False)
class Softmax(AbstractOperator):
    """Inputs: the scores, and optionally ``keep``, which broadcasts to them. axis: of a sample, from 0.

    bias: int32, broadcasts to the scores, with as many axes; None for none.
    """

    axis: int
    rescale: Rescale
    guard: int
    numerator: int
    precision: int
    bias: Tensor | None = None

    def run(self, codes: Sequence[Tensor], values: Values) -> Tensor:
        """See the top of this file."""
        scores = self._scores(codes, values)
        distance = scores.amax(self.axis + 1, keepdim=True) - scores
        octaves = self.rescale.apply(distance).clamp_(max=MOST_DISTANCE)
        fraction = octaves & 65535
        powers = (coarse_table()[fraction >> 8] * fine_table()[fraction & 255]) >> (_UNIT + (octaves >> 16))
        ratio = self.numerator // powers.sum(self.axis + 1, keepdim=True)
        value = values[self.output]
        rounded = (powers * ratio + ((1 << self.precision) >> 1)) >> self.precision
        return (rounded + value.zero_point).clamp_(value.grid.minimum, value.grid.maximum).to(torch.int32)

    def _scores(self, codes: Sequence[Tensor], values: Values) -> Tensor:
        """t, int64."""
        scores = (codes[0].long() - values[self.inputs[0]].zero_point) << self.guard
        if self.bias is not None:
            scores = torch.where(self.bias == HIDDEN, HIDDEN, scores + self.bias)
        if len(codes) > 1:
            keep = aligned(codes)[1] != values[self.inputs[1]].zero_point
            scores = torch.where(keep, scores, HIDDEN)
        return scores

    def check(self, values: Values) -> None:
        """Everything below 2^63, whatever the codes are."""
        x, y = values[self.inputs[0]], values[self.output]
        reach = max(-x.centred_bounds[0], x.centred_bounds[1]) << self.guard
        if not (0 <= self.axis < len(x.shape) and x.shape == y.shape):
            raise self.fail("its axis or shape does not fit its input.")
        if self.bias is not None:
            shown = self.bias[self.bias != HIDDEN]
            if self.bias.ndim != len(x.shape) or (shown.numel() and int(shown.abs().max()) > MOST_BIAS):
                raise self.fail("its bias has another number of axes than its input, or numbers beyond 2^28.")
        if self.guard < 0 or reach > MOST_BIAS or self.rescale.multiplier.numel() > 1:
            raise self.fail("its scores reach beyond 2^28, or have several scales.")
        if not (0 < self.numerator < 2**62 and 0 <= self.precision <= MAX_SHIFT and x.shape[self.axis] < 2**31):
            raise self.fail("its numerator or precision is out of bounds.")
