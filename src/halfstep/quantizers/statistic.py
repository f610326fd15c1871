"""Quantizers that learn nothing of their own: the scale of a weight is computed from the weight at every call.

    few bits, weight:        s = statistic(w), a constant as far as gradients are concerned
    other grids:             s as calibrated,      codes = clamp(round(x / s) + z, minimum, maximum)

The formulas behind such a statistic hold for a few bits; the 8-bit first and last layers of a recipe, and activations, keep the grid that
calibration found, straight-through inside and 0 beyond (`grid.quantize_affine`). No paper; each method's is in its own file.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import ClassVar

import torch
from torch import Tensor

from halfstep.grid import Grid, Quantized, quantize_affine
from halfstep.quantizers.learned import AbstractLearnedQuantizer


class AbstractStatisticQuantizer(AbstractLearnedQuantizer):
    """A subclass supplies `quantize_weight` and the most bits it holds for."""

    most_bits: ClassVar[int]
    scale: Tensor
    zero_point: Tensor

    def __init__(self, grid: Grid, num_channels: int | None = None, num_groups: int | None = None, is_weight: bool = False) -> None:
        super().__init__(grid, num_channels, num_groups, is_weight)
        self.register_buffer("scale", torch.full(self.shape(), torch.nan))
        self.register_buffer("zero_point", torch.zeros(self.shape()))

    @property
    def is_calibrated(self) -> bool:
        """True once a grid was set."""
        return not bool(torch.isnan(self.scale).any())

    def set(self, scale: Tensor, zero_point: Tensor) -> None:
        """Take this grid where no statistic decides, and switch the quantizer on."""
        self.scale.copy_(scale)
        self.zero_point.copy_(zero_point)
        self.is_enabled = True

    def start(self, x: Tensor) -> None:
        """Nothing to start: a statistic follows the values at every call."""

    @abstractmethod
    def quantize_weight(self, w: Tensor) -> Quantized:
        """A weight on a grid of few bits, with its gradient."""

    def quantize(self, x: Tensor) -> Quantized:
        """``x`` on the grid."""
        if self.is_weight and self.grid.signed and self.grid.symmetric and self.grid.bits <= self.most_bits:
            return self.quantize_weight(x)
        return quantize_affine(x, self.scale, self.zero_point, self.grid)
