"""The range with the smallest absolute error: as `mse`, but rare large values weigh less, and more of them are clipped.

    argmin over ranges R of   sum_i n_i |x_i - quantize_R(x_i)|

x_i: the values of the distribution, n_i: how often each occurs, quantize_R: nearest rounding onto the grid fitted to R. Aidge (CEA List)
has it as the clipping mode AA; there is no paper.

Deviations: R has exactly the codes of the tensor's grid, unsigned or signed, and both its ends are searched where the grid is asymmetric;
Aidge's 100 evenly spaced thresholds are replaced by the search of ``ranges/search.py``.
"""

from __future__ import annotations

from typing import final

import torch
from pydantic import Field

from halfstep.grid import Grid
from halfstep.ranges.abstract import RANGES, AbstractRange, Range
from halfstep.ranges.distribution import Distribution
from halfstep.ranges.search import best_range, rounding_error


@final
@RANGES.register("mean_absolute_error")
class MeanAbsoluteError(AbstractRange):
    """Least absolute error. num_candidates: factors tried in each of the two passes."""

    num_candidates: int = Field(default=32, ge=8, le=10_000)

    def range(self, distribution: Distribution, grid: Grid) -> Range:
        """The best range for each row, within the exact extremes."""
        return best_range(distribution, grid, lambda s, z: rounding_error(distribution, s, z, grid, torch.abs_), self.num_candidates)
