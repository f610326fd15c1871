"""Analytic clipping (ACIQ): the range with the least expected error if the values follow a Laplace or a Gauss density.

    E(a) = 2 b^2 exp(-a / b) + a^2 / (3 L^2)                                                   Laplace
    E(a) = (a^2 + s^2) erfc(a / (sqrt(2) s)) + a^2 / (3 L^2) - sqrt(2 / pi) a s exp(-a^2 / (2 s^2))    Gauss
    range = [mu - a, mu + a] with dE/da = 0

L: levels of the grid. mu: mean of the values. b: their mean distance from mu. s: their standard deviation. The term with L is the error of
rounding, the rest that of clipping. Of values on one side of 0 (behind a ReLU) only half of the density is left, with all levels on it:
the range is [0, a], and 12 L^2 takes the place of 3 L^2. With 4 bits: a = 5.03 b and 2.56 s on two sides, 6.20 b and 2.94 s on one.
Banner et al. 2019, "Post training 4-bit quantization of convolutional networks for rapid-deployment", section 2, equations 5 to 10.

Deviations: the condition dE/da = 0 is solved by bisection for any number of levels instead of being read from a table. Behind a ReLU, b
and s are those of the values other than 0, taken about 0: for a density centred at 0 that is the same, and whatever the mean, an
exponential tail keeps its b. Which density fits is decided by their likelihood, for each distribution, unless told. A symmetric grid is
centred at 0, and so are b and s then; one with a sign uses half of its levels for values on one side. One range a tensor (the paper clips
each channel of the activations on its own, and shares bits out among them). Never beyond the extremes.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Literal, final

import torch
from jaxtyping import Float
from torch import Tensor

from halfstep.grid import Grid
from halfstep.ranges.abstract import RANGES, AbstractRange, Range
from halfstep.ranges.distribution import Distribution

_NUM_HALVINGS = 80


@final
@RANGES.register("aciq")
class AnalyticClipping(AbstractRange):
    """Analytic clipping. density: "laplace", "gauss", or "likelier" of the two for each distribution."""

    density: Literal["likelier", "laplace", "gauss"] = "likelier"

    def range(self, distribution: Distribution, grid: Grid) -> Range:
        """The interval, widened to contain 0 and never beyond the exact extremes."""
        low, high = distribution.extremes()
        is_positive, is_negative = low == 0, high == 0
        one_sided = is_positive | is_negative
        halves = (1 + grid.maximum) if grid.signed and grid.symmetric else grid.num_levels
        centre = self._centre(distribution, one_sided, grid)
        mean_distance, deviation = spread(distribution, centre, one_sided)
        reach = torch.where(
            one_sided,
            self._reach(mean_distance, deviation, 2 * halves),  # 12 L^2 = 3 (2 L)^2
            self._reach(mean_distance, deviation, grid.num_levels),
        )
        minimum = torch.where(is_positive, 0.0, torch.where(is_negative, -reach, centre - reach))
        maximum = torch.where(is_negative, 0.0, torch.where(is_positive, reach, centre + reach))
        minimum, maximum = torch.maximum(minimum.clamp(max=0), low), torch.minimum(maximum.clamp(min=0), high)
        is_empty = minimum == maximum
        return Range(torch.where(is_empty, low, minimum), torch.where(is_empty, high, maximum))

    def _centre(self, distribution: Distribution, one_sided: Tensor, grid: Grid) -> Float[Tensor, " C"]:
        """The mean of each row; 0 where the range begins at 0 or is symmetric."""
        values, counts = distribution.values.double(), distribution.counts.double()
        mean = (values * counts).sum(1) / counts.sum(1)
        return torch.zeros_like(mean) if grid.symmetric else torch.where(one_sided, 0.0, mean)

    def _reach(self, mean_distance: Tensor, deviation: Tensor, num_levels: int) -> Float[Tensor, " C"]:
        laplace, gauss = laplace_reach(num_levels) * mean_distance, gauss_reach(num_levels) * deviation
        if self.density != "likelier":
            return laplace if self.density == "laplace" else gauss
        # mean log-likelihoods: -log(2 b) - 1 and -log(s) - log(2 pi e) / 2
        is_laplace = torch.log(2 * mean_distance) + 1 < torch.log(deviation) + 0.5 * math.log(2 * math.pi * math.e)
        return torch.where(is_laplace, laplace, gauss)


def spread(distribution: Distribution, centre: Tensor, one_sided: Tensor) -> tuple[Float[Tensor, " C"], Float[Tensor, " C"]]:
    """(mean distance from the centre, root of the mean squared one); of the values other than 0 where all lie on one side of it."""
    distance = (distribution.values.double() - centre[:, None]).abs()
    counts = distribution.counts.double() * torch.where(one_sided[:, None], distance > 0, True)
    total = counts.sum(1).clamp(min=1)
    largest = distance.amax(1).clamp(min=torch.finfo(torch.float64).tiny)  # so that squares of tiny values do not vanish
    scaled = distance / largest[:, None]
    return largest * (scaled * counts).sum(1) / total, largest * ((scaled.square() * counts).sum(1) / total).sqrt()


@functools.cache
def laplace_reach(num_levels: int) -> float:
    """The best a / b: where  a exp(a) = 3 L^2  for b = 1."""
    return _root(lambda a: a / (3 * num_levels**2) - math.exp(-a))


@functools.cache
def gauss_reach(num_levels: int) -> float:
    """The best a / s: where  a erfc(a / sqrt(2)) + a / (3 L^2) = sqrt(2 / pi) exp(-a^2 / 2)  for s = 1."""
    return _root(lambda a: a * math.erfc(a / math.sqrt(2)) + a / (3 * num_levels**2) - math.sqrt(2 / math.pi) * math.exp(-a * a / 2))


def _root(slope: Callable[[float], float]) -> float:
    """Where an increasing function crosses 0, between 0 and 100."""
    low, high = 0.0, 100.0
    for _ in range(_NUM_HALVINGS):
        middle = (low + high) / 2
        low, high = (middle, high) if slope(middle) < 0 else (low, middle)
    return (low + high) / 2
