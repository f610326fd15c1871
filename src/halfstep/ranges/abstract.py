"""What a range estimator is, and how a range becomes a scale and a zero point."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from halfstep.grid import Grid
from halfstep.ranges.distribution import Distribution
from halfstep.registry import Method, Registry


@dataclass(frozen=True)
class Range:
    """The real values a grid has to cover, one pair a channel: ``minimum <= 0 <= maximum``, float64 of shape [C]."""

    minimum: Float[Tensor, "*shape"]
    maximum: Float[Tensor, "*shape"]

    def fit(self, grid: Grid) -> tuple[Tensor, Tensor]:
        """(scale, zero_point) of shape [C] with which ``grid`` covers the range; scale 0 where the range is empty.

        symmetric:   scale = max(|minimum| / |q_min|, maximum / q_max), zero_point = 0
        asymmetric:  scale = (maximum - minimum) / (q_max - q_min), zero_point = round(q_min - minimum / scale)
        """
        if grid.symmetric:
            scale = self.maximum / grid.maximum
            if grid.signed:
                scale = torch.maximum(scale, -self.minimum / -grid.minimum)
            return scale, torch.zeros_like(scale)
        scale = (self.maximum - self.minimum) / (grid.num_levels - 1)
        zero_point = torch.round(grid.minimum - self.minimum / torch.where(scale > 0, scale, 1))
        return scale, zero_point.clamp(grid.minimum, grid.maximum)


class AbstractRange(Method, ABC):
    """A way to find a range is one subclass: a pure function of a `Distribution`, the same for weights and activations.

    Streaming belongs to the `Histogram` that becomes the distribution, so that one pass over the data serves every method and
    saved statistics can be used again with another one. refines_on_data: whether a weight's range is refined when its layer is rounded.
    """

    refines_on_data: ClassVar[bool] = False

    @abstractmethod
    def range(self, distribution: Distribution, grid: Grid) -> Range:
        """The range ``grid`` should cover, one pair for each row of ``distribution``."""

    def refine(
        self,
        rows: Float[Tensor, "G R d"],
        gram: Float[Tensor, "G d d"],
        target: Float[Tensor, "G R d"],
        grid: Grid,
        scale: Float[Tensor, "*shape"],
        zero_point: Float[Tensor, "*shape"],
    ) -> tuple[Tensor, Tensor]:
        """(scale, zero_point) once it is known what a weight's inputs look like; called where ``refines_on_data``.

        rows: the weight, a row for each output channel of G groups. The layer's error is (v - target) gram (v - target)ᵀ, summed over
        the rows v of the quantized weight. scale, zero_point: those of `range`, shape [], [G R] or [G R, num_groups]; what comes back has
        their shape and type. Here: unchanged.
        """
        return scale, zero_point


RANGES: Registry[AbstractRange] = Registry("range")
