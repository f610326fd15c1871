"""Quantizers that learn nothing of their own: the scale of a weight is computed from the weight at every call.

    few bits, weight:        s = statistic(w), a constant as far as gradients are concerned
    other grids:             s as calibrated,      codes = clamp(round(x / s) + z, minimum, maximum)

The formulas behind such a statistic hold for a few bits; the 8-bit first and last layers of a recipe, and activations, keep the grid that
calibration found, straight-through inside and 0 beyond (`grid.quantize_affine`). No paper; each method's is in its own file.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import ClassVar

from torch import Tensor

from halfstep.grid import Quantized
from halfstep.quantizers.calibrated import AbstractCalibratedQuantizer


class AbstractStatisticQuantizer(AbstractCalibratedQuantizer):
    """A subclass supplies `quantize_weight` and the most bits it holds for."""

    most_bits: ClassVar[int]

    @abstractmethod
    def quantize_weight(self, w: Tensor) -> Quantized:
        """A weight on a grid of few bits, with its gradient."""

    def quantize(self, x: Tensor) -> Quantized:
        """``x`` on the grid."""
        if self.is_weight and self.grid.signed and self.grid.symmetric and self.grid.bits <= self.most_bits:
            return self.quantize_weight(x)
        return super().quantize(x)
