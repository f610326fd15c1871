"""Everything that was seen: range = [min x, max x].

No value is clipped; one outlier sets the step for all. Krishnamoorthi 2018, "Quantizing deep convolutional networks for efficient
inference", section 3.1. No deviation.
"""

from __future__ import annotations

from typing import final

from halfstep.grid import Grid
from halfstep.ranges.abstract import RANGES, AbstractRange, Range
from halfstep.ranges.distribution import Distribution


@final
@RANGES.register("min_max")
class MinMax(AbstractRange):
    """The exact extremes."""

    def range(self, distribution: Distribution, grid: Grid) -> Range:
        """Minimum and maximum, widened to contain 0."""
        return Range(*distribution.extremes())
