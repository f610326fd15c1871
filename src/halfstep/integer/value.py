"""A tensor of codes in an integer program."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from halfstep.grid import Grid


@dataclass(frozen=True)
class Value:
    """name: the user's. shape: of one sample. grid: the integers it may hold, one scale for the tensor.

    What code q stands for: ``(q - zero_point) * scale``; 0 is a code of every value. scale takes no part in any arithmetic.
    """

    name: str
    shape: tuple[int, ...]
    grid: Grid
    scale: float
    zero_point: int = 0

    @property
    def size(self) -> int:
        """How many codes it holds."""
        size = 1
        for length in self.shape:
            size *= length
        return size

    @property
    def item_bytes(self) -> int:
        """Bytes of one code in memory: 1, 2 or 4."""
        return 1 if self.grid.bits <= 8 else 2 if self.grid.bits <= 16 else 4

    @property
    def centred_bounds(self) -> tuple[int, int]:
        """The least and the largest of ``code - zero_point``."""
        return self.grid.minimum - self.zero_point, self.grid.maximum - self.zero_point

    def to_json(self) -> dict[str, Any]:
        """Plain values; see `from_json`."""
        return {
            "name": self.name,
            "shape": list(self.shape),
            "grid": self.grid.to_json(),
            "scale": self.scale,
            "zero_point": self.zero_point,
        }

    @classmethod
    def from_json(cls, entry: dict[str, Any]) -> Value:
        """The value that `to_json` described."""
        return cls(entry["name"], tuple(entry["shape"]), Grid(**entry["grid"]), entry["scale"], entry["zero_point"])
