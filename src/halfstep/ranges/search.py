"""The search that every estimator shares which compares ranges by a loss.

    R = [low t, high t],   0 < t <= 1                      symmetric grids, and rows with values on one side of 0
    R = [low s, high t],   0 < s, t <= 1                   otherwise: one end after the other, twice

low, high: the exact extremes of the row, widened to contain 0. Evenly spaced factors are followed by as many between the neighbours of the
best (two passes of 32 resolve 1/512). Of two ranges that are equally good the wider one is taken, so that nothing is clipped without need.
All rows and all factors are tried at once.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor

from halfstep.grid import Grid
from halfstep.ranges.abstract import Range
from halfstep.ranges.distribution import Distribution

Loss = Callable[[Tensor, Tensor], Tensor]
"""(scale [C, T], zero point [C, T]) of T candidates for each of C rows -> their loss [C, T]."""

_SMALLEST = 2.0**-126  # a smaller scale has no inverse in float32
_NUM_STARTS = 16  # factors tried for each end before they are searched in turn
_PER_CODE = 4
_CHUNK = 1 << 18  # values evaluated at once: bounds the memory and stays in the cache


def best_range(distribution: Distribution, grid: Grid, loss: Loss, num_candidates: int) -> Range:
    """The range of least loss for each row, within the exact extremes. num_candidates: factors tried in each of the two passes."""
    low, high = distribution.extremes()
    search = partial(_search, distribution, grid, loss, num_candidates)
    if grid.symmetric or bool(((low == 0) | (high == 0)).all()):
        shrink = search(lambda t: Range(low[:, None] * t, high[:, None] * t))
        return Range(low * shrink, high * shrink)
    best = _start(distribution, grid, loss)
    for _ in range(2):
        best = Range(best.minimum, high * search(partial(_shrink_high, best, high)))
        best = Range(low * search(partial(_shrink_low, best, low)), best.maximum)
    return best


def _start(distribution: Distribution, grid: Grid, loss: Loss) -> Range:
    """The best of evenly spaced pairs of ends, so that the search in turn begins in the right valley."""
    low, high = distribution.extremes()
    factors = torch.linspace(1, 1 / _NUM_STARTS, _NUM_STARTS, dtype=torch.float64)
    for_low, for_high = torch.cartesian_prod(factors, factors).T
    ends = Range(low[:, None] * for_low, high[:, None] * for_high)
    best = loss(*ends.fit(grid)).argmin(1)
    return Range(low * for_low[best], high * for_high[best])


def _search(
    distribution: Distribution, grid: Grid, loss: Loss, num_candidates: int, candidates: Callable[[Tensor], Range]
) -> Float[Tensor, " C"]:
    """The factor [C] whose range has the smallest loss; ``candidates`` maps factors [C, T] to ranges of [C, T] ends."""

    def best_of(factors: Tensor) -> Tensor:
        factors = factors.flip(1)  # the largest first: it wins a tie
        return factors.gather(1, loss(*candidates(factors).fit(grid)).argmin(1, keepdim=True))[:, 0]

    num_rows, step = len(distribution.minimum), 1 / num_candidates
    best = best_of(torch.linspace(step, 1, num_candidates, dtype=torch.float64).expand(num_rows, -1))
    offsets = torch.linspace(-step, step, num_candidates + 1, dtype=torch.float64)
    return best_of((best[:, None] + offsets).clamp(step / 8, 1))


def _shrink_high(other: Range, high: Tensor, factors: Tensor) -> Range:
    return Range(other.minimum[:, None].expand_as(factors), high[:, None] * factors)


def _shrink_low(other: Range, low: Tensor, factors: Tensor) -> Range:
    return Range(low[:, None] * factors, other.maximum[:, None].expand_as(factors))


def is_sparse(num_values: int, grid: Grid) -> bool:
    """Whether there are too few values to compare the shape of their distribution with what ``grid`` makes of it."""
    return num_values < _PER_CODE * grid.num_levels


def borders(scale: Float[Tensor, "C T"], zero_point: Float[Tensor, "C T"], grid: Grid) -> Float[Tensor, "C T B"]:
    """The real values half way between neighbouring codes, ascending: one fewer than there are codes."""
    codes = torch.arange(grid.minimum, grid.maximum, dtype=torch.float64) + 0.5
    return (codes - zero_point[..., None]) * scale[..., None]


def in_parts(loss: Loss, grid: Grid) -> Loss:
    """The same loss of a few candidates at a time, where it holds a number for each code of each of them."""

    def total(scale: Tensor, zero_point: Tensor) -> Tensor:
        columns = max(1, _CHUNK // (scale.shape[0] * grid.num_levels))
        parts = zip(scale.split(columns, 1), zero_point.split(columns, 1), strict=True)
        return torch.cat([loss(*part) for part in parts], 1)

    return total


def rounding_error(
    distribution: Distribution,
    scale: Float[Tensor, "C T"],
    zero_point: Float[Tensor, "C T"],
    grid: Grid,
    measure: Callable[[Tensor], Tensor],
) -> Float[Tensor, "C T"]:
    """Sum over each row of count * measure(quantized value - value), for scales and zero points of shape [C, T]; float64 [C, T].

    measure: of a tensor, in place. Where the scale is 0 (an empty range) everything quantizes to 0.
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
        difference = measure(steps.mul_(scale[..., None]).sub_(part))
        error += torch.einsum("ctk,ck->ct", difference, counts[:, start : start + columns]).double()
    return error
