"""All but the rarest values, on both sides: range = [quantile(1 - p), quantile(p)] of the values, with p = percentile / 100.

McKinstry et al. 2018, "Discovering low-precision networks close to full-precision networks for efficient embedded inference"
(activations at 99.99 %). Deviation: both tails are cut, each at its own quantile, so that negative outliers count as well (a
quantile of |x| or of the upper tail alone misplaces signed tensors); a tensor without negative values keeps its lower end at 0.
"""

from __future__ import annotations

from typing import final

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor

from halfstep.grid import Grid
from halfstep.ranges.abstract import RANGES, AbstractRange, Range
from halfstep.ranges.distribution import Distribution


@final
@RANGES.register("percentile")
class Percentile(AbstractRange):
    """Two-sided percentile. percentile: share of the values, in percent, below the upper end (and above the lower one)."""

    percentile: float = Field(default=99.99, gt=50, le=100)

    def range(self, distribution: Distribution, grid: Grid) -> Range:
        """The quantiles, widened to contain 0 and never beyond the exact extremes."""
        lowest, highest = distribution.extremes()
        upper = _quantile(distribution.values, distribution.counts, self.percentile / 100)
        lower = -_quantile(-distribution.values.flip(1), distribution.counts.flip(1), self.percentile / 100)
        low, high = torch.maximum(lower.clamp(max=0), lowest), torch.minimum(upper.clamp(min=0), highest)
        is_empty = low == high
        return Range(torch.where(is_empty, lowest, low), torch.where(is_empty, highest, high))


def _quantile(values: Float[Tensor, "C K"], counts: Float[Tensor, "#C K"], share: float) -> Float[Tensor, " C"]:
    """The smallest value of each row up to which at least ``share`` of the row's counts lie."""
    cumulated = counts.double().cumsum(1).expand_as(values).contiguous()
    index = torch.searchsorted(cumulated, share * cumulated[:, -1:] * (1 - 1e-12))
    return values.gather(1, index.clamp(max=values.shape[1] - 1))[:, 0]
