"""The range that keeps most of the distribution's shape: least Kullback-Leibler divergence of what quantization leaves of it.

    D(R) = sum_i p_i log(p_i / q_i)  =  constant + sum_c P_c log(w_c / P_c)

p: the whole distribution, what R clips included. q: what is known of it behind the quantizer, where all values of one code look alike: the
mass P_c of the values that take code c, spread evenly over the width w_c of the interval they come from. The interval of the first and of
the last code reaches to the extremes. So a small R tells the codes' values well apart and smears the tails, a large one the other way
round. The sum over i is the distribution's own entropy and the same for all R; what is left is a sum over codes. It needs the cumulated
distribution at the borders between codes and nothing else, and all ranges are tried at once.

This is the divergence that N2D2 (CEA List) searches: the full, unclipped histogram against its coarse copy (file Histogram.cpp).
`entropy` is that of TensorRT, which clips the reference too.

Deviations: N2D2 tries 1,000 evenly spaced thresholds, here ``ranges/search.py`` goes from coarse to fine; its coarse copy has 2^bits equal
bins on [-T, T], here one for each code of the grid, which holds the values that round to it; both ends are searched where the grid is
asymmetric. p is linear between the middles of neighbouring values instead of constant on fine bins, so that D does not jump where a border
passes a bin; no w counts as narrower than 2^-13 of the whole width. Values of exactly 0 are left out: every grid has a code of their own
for them, and behind a ReLU they outweigh all others.
With fewer than four values for each code there is no shape to keep, and the range is the extremes: a single output channel of a small
weight with 8 bits, say.
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
from halfstep.ranges.search import best_range, borders, in_parts, is_sparse

_FINEST = 2.0**-13


@final
@RANGES.register("kl")
class KullbackLeibler(AbstractRange):
    """Least divergence from the full distribution (N2D2). num_candidates: factors tried in each of the two passes."""

    num_candidates: int = Field(default=32, ge=8, le=10_000)

    def range(self, distribution: Distribution, grid: Grid) -> Range:
        """The best range for each row, within the exact extremes."""
        if is_sparse(distribution.values.shape[1], grid):
            return Range(*distribution.extremes())
        low, high = distribution.extremes()
        cumulated = _Cumulated(distribution)
        loss = in_parts(lambda s, z: _divergence(cumulated, low, high, borders(s, z, grid)), grid)
        return best_range(distribution, grid, loss, self.num_candidates)


class _Cumulated:
    """The share of the values other than 0 below any point, linear between the middles of neighbouring values."""

    def __init__(self, distribution: Distribution) -> None:
        values = distribution.values.double()
        counts = distribution.counts.double() * (values != 0)
        first, last = distribution.minimum[:, None], distribution.maximum[:, None]
        middles = torch.clamp((values[:, 1:] + values[:, :-1]) / 2, first, last)
        self._points = torch.cat([first, middles, last], 1).contiguous()
        shares = counts.cumsum(1) / counts.sum(1, keepdim=True).clamp(min=1)
        self._shares = torch.cat([torch.zeros_like(first), shares], 1)
        widths = self._points.diff(dim=1)
        self._slopes = torch.where(widths > 0, self._shares.diff(dim=1) / torch.where(widths > 0, widths, 1), 0)

    def below(self, x: Float[Tensor, "C M"]) -> Float[Tensor, "C M"]:
        """The share below each of ``x``."""
        x = torch.clamp(x, self._points[:, :1], self._points[:, -1:])
        left = (torch.searchsorted(self._points, x) - 1).clamp(0, self._slopes.shape[1] - 1)
        start, slope, share = (part.gather(1, left) for part in (self._points, self._slopes, self._shares))
        return share + slope * (x - start)


def _divergence(cumulated: _Cumulated, low: Tensor, high: Tensor, inner: Float[Tensor, "C T B"]) -> Float[Tensor, "C T"]:
    """sum_c P_c log(w_c / P_c) with the borders ``inner`` between codes, between low and high [C]."""
    points = torch.clamp(inner, low[:, None, None], high[:, None, None])
    below = cumulated.below(points.flatten(1)).view(points.shape)
    outer = torch.zeros_like(inner[..., :1])
    mass = torch.diff(below, dim=2, prepend=outer, append=outer + 1)
    width = torch.diff(points, dim=2, prepend=outer + low[:, None, None], append=outer + high[:, None, None])
    share = width / (high - low).clamp(min=torch.finfo(torch.float64).tiny)[:, None, None]
    return torch.xlogy(mass, share.clamp(min=_FINEST) / torch.where(mass > 0, mass, 1)).sum(2)
