"""The mean and some standard deviations on both sides: range = [mean - k std, mean + k std], within the extremes.

mean, std: of the values of the distribution, each counted as often as it occurs. k: ``num_deviations``; 3, 4 and 5 are usual. Of values on
one side of 0, such as those behind a ReLU, half of a density is left: the range is [0, k std], std taken about 0 and without the zeros.
Lin et al. 2016, "Fixed point quantization of deep convolutional networks", section 3, choose the step of a Gaussian tensor in proportion to
its standard deviation. Deviation: k is an option instead of the paper's table over the number of bits, and a range of values on both sides
is centred on the mean, not on 0.
"""

from __future__ import annotations

from typing import final

import torch
from pydantic import Field

from halfstep.grid import Grid
from halfstep.ranges.abstract import RANGES, AbstractRange, Range
from halfstep.ranges.aciq import spread
from halfstep.ranges.distribution import Distribution


@final
@RANGES.register("mean_std")
class MeanStd(AbstractRange):
    """Mean and standard deviation. num_deviations: standard deviations covered on each side of the mean."""

    num_deviations: float = Field(default=4.0, gt=0)

    def range(self, distribution: Distribution, grid: Grid) -> Range:
        """The interval, widened to contain 0 and never beyond the exact extremes."""
        low, high = distribution.extremes()
        values, counts = distribution.values.double(), distribution.counts.double()
        one_sided = (low == 0) | (high == 0)
        centre = torch.where(one_sided, 0, (values * counts).sum(1) / counts.sum(1))
        reach = self.num_deviations * spread(distribution, centre, one_sided)[1]
        return Range(torch.clamp(centre - reach, low, low.clamp(min=0)), torch.clamp(centre + reach, high.clamp(max=0), high))
