"""Entropy calibration: the range whose clipped distribution is closest to its own quantized copy (Kullback-Leibler).

    D(R) = sum_i p_i log(p_i / q_i)         over the fine bins i inside R
    p_i = n_i / N                           the counts outside R added to those of the outermost bin inside, on either side
    q_i = Q_c / (w_c N_R)                   for the w_c occupied bins i that take code c

n_i: counts in fine bins. N: all counts, N_R: those inside R. Q_c: counts of the bins that take code c, without what was folded in: so q
shows too little at the ends of R, the more the more was clipped. Migacz 2017, "8-bit inference with TensorRT" (GTC), and the histogram
calibrator of NVIDIA's pytorch-quantization. Unlike in `kl` the reference is clipped with R.

All ranges are tried at once: D is a sum over codes of differences of cumulated counts, cumulated numbers of occupied bins and cumulated
n log n.

Deviations: NVIDIA quantizes |x| to 128 equal parts of [0, T]; here there is a part for each code of the grid, which holds the values that
round to it, on both sides of 0, and R reaches half a step beyond its outermost codes. What is clipped is added to the outermost *occupied*
bin inside R; TensorRT's outermost bin may be empty in q, where D is infinite. The fine bins are those of the histogram, 2,048 to 4,096 on
the longer side, as wide as a power of two and aligned at 0; TensorRT has 2,048. Both ends are searched where the grid is asymmetric. Values
of exactly 0 are left out, as in `kl`; pytorch-quantization replaces the first bin's count by its neighbour's. With fewer than four values
or bins for each code the range is the extremes, and a single output channel of a small weight, which has hardly two values in one bin, is
hardly ever clipped.
"""

from __future__ import annotations

import math
from typing import final

import torch
from jaxtyping import Float, Int64
from pydantic import Field
from torch import Tensor

from halfstep.grid import Grid
from halfstep.ranges.abstract import RANGES, AbstractRange, Range
from halfstep.ranges.distribution import Distribution
from halfstep.ranges.histogram import HALF
from halfstep.ranges.search import best_range, borders, in_parts, is_sparse

_ROWS = 64  # rows searched at once: bounds the memory for their bins


@final
@RANGES.register("entropy")
class Entropy(AbstractRange):
    """Entropy calibration (TensorRT). num_candidates: factors tried in each of the two passes."""

    num_candidates: int = Field(default=32, ge=8, le=10_000)

    def range(self, distribution: Distribution, grid: Grid) -> Range:
        """The best range for each row, within the exact extremes."""
        if is_sparse(min(distribution.values.shape[1], HALF), grid):
            return Range(*distribution.extremes())
        found = [self._range(part, grid) for part in _split(distribution)]
        return Range(torch.cat([part.minimum for part in found]), torch.cat([part.maximum for part in found]))

    def _range(self, distribution: Distribution, grid: Grid) -> Range:
        bins = _Bins(distribution)
        return best_range(distribution, grid, in_parts(lambda s, z: bins.divergence(s, z, grid), grid), self.num_candidates)


def _split(distribution: Distribution) -> list[Distribution]:
    """Some rows each."""
    values, counts = distribution.values, distribution.counts.expand_as(distribution.values)
    rows = zip(*(part.split(_ROWS) for part in (values, counts, distribution.minimum, distribution.maximum)), strict=True)
    return [Distribution(*part) for part in rows]


class _Bins:
    """The fine bins ``[i width, (i + 1) width)``, -HALF <= i < HALF, of each row that hold any counts, in their order."""

    def __init__(self, distribution: Distribution) -> None:
        values = distribution.values.double()
        counts = distribution.counts.double() * (values != 0)
        largest = torch.maximum(-values[:, 0], values[:, -1]).clamp(min=torch.finfo(torch.float64).tiny)
        self._width = torch.exp2(torch.ceil(torch.log2(largest / HALF)))[:, None, None]
        places = torch.floor(values / self._width[..., 0]).clamp(-HALF, HALF - 1).long() + HALF
        is_occupied = torch.zeros(len(values), 2 * HALF, dtype=torch.int64).scatter_add_(1, places, (counts > 0).long()).clamp_(max=1)
        self._ranks = _cumulated(is_occupied)  # how many occupied bins lie before each bin
        self._counts = torch.zeros_like(counts).scatter_add_(1, _at(self._ranks, places), counts)
        self._masses = _cumulated(self._counts)
        self._terms = _cumulated(torch.xlogy(self._counts, self._counts))

    def divergence(self, scale: Float[Tensor, "C T"], zero_point: Float[Tensor, "C T"], grid: Grid) -> Float[Tensor, "C T"]:
        """D for scales and zero points of shape [C, T]; infinite where no value lies inside the range."""
        ranks = self._borders(scale, zero_point, grid)
        masses, terms = _at(self._masses, ranks), _at(self._terms, ranks)
        total = self._masses[:, -1:].clamp(min=1)
        below, inside, above = masses[..., 0], masses[..., -1] - masses[..., 0], total - masses[..., -1]
        first, last = ranks[..., 0].clamp(max=self._counts.shape[1] - 1), (ranks[..., -1] - 1).clamp(min=0)
        count, num_occupied = masses.diff(dim=2), ranks.diff(dim=2)
        density = torch.log(torch.where(count > 0, count / num_occupied.clamp(min=1), 1))  # log(Q_c / w_c)
        crossed = (count * density).sum(2) + below * _of_code(density, ranks, first) + above * _of_code(density, ranks, last)
        own = terms[..., -1] - terms[..., 0] + self._folded(first, last, below, above)
        found = (own - crossed) / total - torch.log(total) + torch.log(inside.clamp(min=1))
        return torch.where(inside > 0, found, math.inf)

    def _borders(self, scale: Tensor, zero_point: Tensor, grid: Grid) -> Int64[Tensor, "C T B"]:
        """How many occupied bins lie before those of each code, and before what follows the last one; a bin's centre decides."""
        inner, step = borders(scale, zero_point, grid), scale[..., None]
        points = torch.cat([inner[..., :1] - step, inner, inner[..., -1:] + step], 2)
        return _at(self._ranks, torch.ceil(points / self._width - 0.5).clamp(-HALF, HALF).long() + HALF)

    def _folded(self, first: Tensor, last: Tensor, below: Tensor, above: Tensor) -> Float[Tensor, "C T"]:
        """What is added to sum n log n when ``below`` counts join the bin ``first`` and ``above`` the bin ``last``."""
        at_first, at_last = _at(self._counts, first), _at(self._counts, last)
        apart = _growth(at_first, below) + _growth(at_last, above)
        return torch.where(first == last, _growth(at_first, below + above), apart)


def _of_code(density: Float[Tensor, "C T L"], ranks: Int64[Tensor, "C T B"], bin_: Int64[Tensor, "C T"]) -> Float[Tensor, "C T"]:
    """The entry of ``density`` of the code that a bin belongs to."""
    code = torch.searchsorted(ranks, bin_[..., None], right=True) - 1
    return density.gather(2, code.clamp(0, density.shape[2] - 1))[..., 0]


def _growth(count: Tensor, more: Tensor) -> Tensor:
    return torch.xlogy(count + more, count + more) - torch.xlogy(count, count)


def _cumulated(rows: Tensor) -> Tensor:
    """The sums of the first 0, 1, ... N entries of rows [C, N]: [C, N + 1]."""
    return torch.nn.functional.pad(rows.cumsum(1), (1, 0))


def _at(rows: Tensor, places: Tensor) -> Tensor:
    """Entries [C, ...] of ``rows`` [C, N] at ``places`` [C, ...]."""
    return rows.gather(1, places.flatten(1)).view(places.shape)
