"""The range with the smallest squared error: clipping a little makes all the other steps finer.

    argmin over ranges R of   sum_i n_i (x_i - quantize_R(x_i))^2

x_i: the values of the distribution, n_i: how often each occurs, quantize_R: nearest rounding onto the grid fitted to R.
Sung et al. 2015, "Resiliency of deep neural networks under quantization"; Banner et al. 2019, "Post training 4-bit quantization of
convolutional networks for rapid-deployment".

Search: an end of the range is shrunk towards 0 by a factor t in (0, 1]. Symmetric grids and tensors with values on one side of 0
need a single t; otherwise the upper and the lower end are searched in turn, twice. Deviation: published searches try 100 to 1000
evenly spaced factors; here ``num_candidates`` coarse ones are followed by as many between the neighbours of the best (two
passes of 32 resolve 1/500).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import final

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor

from halfstep.grid import Grid
from halfstep.ranges.abstract import RANGES, AbstractRange, Range
from halfstep.ranges.distribution import Distribution

_SMALLEST = 2.0**-126  # a smaller scale has no inverse in float32
_NUM_STARTS = 16  # factors tried for each end before they are searched in turn
_CHUNK = 1 << 18  # values evaluated at once: bounds the memory and stays in the cache


@final
@RANGES.register("mse")
class MeanSquaredError(AbstractRange):
    """Least squared error. num_candidates: factors tried in each of the two passes."""

    num_candidates: int = Field(default=32, ge=8, le=10_000)

    def range(self, distribution: Distribution, grid: Grid) -> Range:
        """The best range for each row, within the exact extremes."""
        low, high = distribution.extremes()
        if grid.symmetric or bool(((low == 0) | (high == 0)).all()):
            shrink = self._search(distribution, grid, lambda t: Range(low[:, None] * t, high[:, None] * t))
            return Range(low * shrink, high * shrink)
        best = self._start(distribution, grid)
        for _ in range(2):
            best = Range(best.minimum, high * self._search(distribution, grid, partial(_shrink_high, best, high)))
            best = Range(low * self._search(distribution, grid, partial(_shrink_low, best, low)), best.maximum)
        return best

    def _start(self, distribution: Distribution, grid: Grid) -> Range:
        """The best of evenly spaced pairs of ends, so that the search in turn begins in the right valley."""
        low, high = distribution.extremes()
        factors = torch.linspace(1, 1 / _NUM_STARTS, _NUM_STARTS, dtype=torch.float64)
        for_low, for_high = torch.cartesian_prod(factors, factors).T
        ends = Range(low[:, None] * for_low, high[:, None] * for_high)
        best = squared_error(distribution, *ends.fit(grid), grid).argmin(1)
        return Range(low * for_low[best], high * for_high[best])

    def _search(self, distribution: Distribution, grid: Grid, candidates: Callable[[Tensor], Range]) -> Float[Tensor, " C"]:
        """The factor [C] whose range has the smallest error; ``candidates`` maps factors [C, T] to ranges of [C, T] ends."""
        num_rows, step = len(distribution.minimum), 1 / self.num_candidates
        factors = torch.linspace(step, 1, self.num_candidates, dtype=torch.float64).expand(num_rows, -1)
        best = _argmin(distribution, grid, candidates, factors)
        offsets = torch.linspace(-step, step, self.num_candidates + 1, dtype=torch.float64)
        return _argmin(distribution, grid, candidates, (best[:, None] + offsets).clamp(step / 8, 1))


def _shrink_high(other: Range, high: Tensor, factors: Tensor) -> Range:
    return Range(other.minimum[:, None].expand_as(factors), high[:, None] * factors)


def _shrink_low(other: Range, low: Tensor, factors: Tensor) -> Range:
    return Range(low[:, None] * factors, other.maximum[:, None].expand_as(factors))


def _argmin(
    distribution: Distribution, grid: Grid, candidates: Callable[[Tensor], Range], factors: Float[Tensor, "C T"]
) -> Float[Tensor, " C"]:
    """The best of factors [C, T] in each row; the largest one wins a tie, so that nothing is clipped without need."""
    factors = factors.flip(1)
    error = squared_error(distribution, *candidates(factors).fit(grid), grid)
    return factors.gather(1, error.argmin(1, keepdim=True))[:, 0]


def squared_error(
    distribution: Distribution, scale: Float[Tensor, "C T"], zero_point: Float[Tensor, "C T"], grid: Grid
) -> Float[Tensor, "C T"]:
    """Sum over each row of count * (value - quantized value)^2, for scales and zero points of shape [C, T]; float64 [C, T].

    Where the scale is 0 (an empty range) everything quantizes to 0.
    """
    scale, zero_point = scale.float(), zero_point.float()
    num_rows, num_candidates = scale.shape
    error = torch.zeros(num_rows, num_candidates, dtype=torch.float64)
    inverse = torch.where(scale > _SMALLEST, 1 / scale, 0)
    values, counts = distribution.values, distribution.counts.expand_as(distribution.values)
    columns = max(1, _CHUNK // (num_rows * num_candidates))
    for start in range(0, values.shape[1], columns):
        part = values[:, None, start : start + columns]
        steps = (part * inverse[..., None]).round_()
        steps.clamp_((grid.minimum - zero_point)[..., None], (grid.maximum - zero_point)[..., None])
        difference = steps.mul_(scale[..., None]).sub_(part).square_()
        error += torch.einsum("ctk,ck->ct", difference, counts[:, start : start + columns]).double()
    return error
