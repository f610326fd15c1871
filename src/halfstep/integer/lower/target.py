"""What the result of an operator is to become: a value on a given grid, or, at the end of the network, one wide enough to lose nothing."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

from halfstep.grid import Grid
from halfstep.integer.value import Value

WIDE = Grid(bits=32, signed=True)


@dataclass(frozen=True)
class Target:
    """name, shape: of the value. grid: None for a wide value, whose scale the operator chooses so that its accumulator fits as it is.

    scale, zero_point: of the grid. bounds: real numbers between which a fused ReLU or clip keeps the result.
    """

    name: str
    shape: tuple[int, ...]
    grid: Grid | None = None
    scale: float = 0.0
    zero_point: int = 0
    bounds: tuple[float, float] = (-math.inf, math.inf)

    unbounded: ClassVar[tuple[float, float]] = (-math.inf, math.inf)

    @property
    def is_wide(self) -> bool:
        """Whether the operator chooses the scale."""
        return self.grid is None

    def value(self, scale: float) -> Value:
        """The value; ``scale`` is that of a wide one."""
        if self.grid is None:
            return Value(self.name, self.shape, WIDE, scale)
        return Value(self.name, self.shape, self.grid, self.scale, self.zero_point)

    def codes(self, value: Value) -> tuple[int, int]:
        """The lowest and the highest code between the bounds: quantizing the bounds themselves, as the simulation does behind a clip."""
        low, high = (_code(value, bound) for bound in self.bounds)
        return low, high


def _code(value: Value, real: float) -> int:
    grid = value.grid
    if math.isinf(real):
        return grid.minimum if real < 0 else grid.maximum
    return max(grid.minimum, min(grid.maximum, round(real / value.scale) + value.zero_point))
