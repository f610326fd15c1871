"""The range with the smallest squared error: clipping a little makes all the other steps finer.

    argmin over ranges R of   sum_i n_i (x_i - quantize_R(x_i))^2

x_i: the values of the distribution, n_i: how often each occurs, quantize_R: nearest rounding onto the grid fitted to R.
Sung et al. 2015, "Resiliency of deep neural networks under quantization"; Banner et al. 2019, "Post training 4-bit quantization of
convolutional networks for rapid-deployment".

Deviation: published searches try 100 to 1000 evenly spaced thresholds; here the search of ``ranges/search.py`` goes from coarse to fine.
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
from halfstep.ranges.search import best_range, rounding_error


@final
@RANGES.register("mse")
class MeanSquaredError(AbstractRange):
    """Least squared error. num_candidates: factors tried in each of the two passes."""

    num_candidates: int = Field(default=32, ge=8, le=10_000)

    def range(self, distribution: Distribution, grid: Grid) -> Range:
        """The best range for each row, within the exact extremes."""
        return best_range(distribution, grid, lambda s, z: squared_error(distribution, s, z, grid), self.num_candidates)


def squared_error(
    distribution: Distribution, scale: Float[Tensor, "C T"], zero_point: Float[Tensor, "C T"], grid: Grid
) -> Float[Tensor, "C T"]:
    """Sum over each row of count * (value - quantized value)^2, for scales and zero points of shape [C, T]; float64 [C, T].

    Where the scale is 0 (an empty range) everything quantizes to 0.
    """
    return rounding_error(distribution, scale, zero_point, grid, torch.square_)
