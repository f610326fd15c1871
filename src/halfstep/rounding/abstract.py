"""What a rounding is: which of the two (or more) codes next to a weight it takes."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor

from halfstep.grid import Grid, Quantized
from halfstep.registry import Method, Registry


@dataclass(frozen=True)
class RoundingProblem:
    """One layer's weight and the grid it has to go to. scale and zero_point have the shape [] or [C], as `Grid.along` takes them."""

    weight: Tensor
    scale: Tensor
    zero_point: Tensor
    grid: Grid

    def position(self) -> Tensor:
        """Where each weight lies between the codes, counted from the zero point: ``weight / scale``, not yet an integer."""
        return self.weight / self.grid.along(self.scale, self.weight.ndim)

    def codes(self, integers: Tensor) -> Quantized:
        """The given integers, counted from the zero point, clipped to the grid."""
        integers = integers + self.grid.along(self.zero_point, self.weight.ndim)
        return Quantized(integers.clamp(self.grid.minimum, self.grid.maximum), self.scale, self.zero_point, self.grid)


class AbstractRounding(Method, ABC):
    """A way to choose codes for one layer is one subclass. It never runs the network; random choices come from ``generator`` alone."""

    @abstractmethod
    def round(self, problem: RoundingProblem, generator: torch.Generator) -> Quantized:
        """Integers on ``problem.grid``, of the shape of ``problem.weight``."""


ROUNDINGS: Registry[AbstractRounding] = Registry("rounding")
