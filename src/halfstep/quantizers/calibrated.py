"""Quantizers that keep the grid calibration found, and, of activations, may learn where it ends.

    x̂ = s round(clip(x, n s, p s) / s)        s as calibrated,  or  s = a / p

s: scale, n, p: lowest and highest code, counted from the zero point. a: a clipping point that is learned; its slope inside the grid is 0
(PACT: Choi et al. 2018, equation 3) or round(v) / p - v / p with v = x / s (CG-PACT: Jin et al. 2020, equation 17). No paper of its own;
what a method does with weights is in the method's file.
"""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from torch import Tensor

from halfstep.grid import Quantized, quantize_affine
from halfstep.quantizers.learned import AbstractLearnedQuantizer, Positive
from halfstep.quantizers.learned_step import Slope, on_grid, with_gradient_times

Ends = Literal["none", "activations", "all"]


class AbstractCalibratedQuantizer(AbstractLearnedQuantizer):
    """Buffers ``calibrated_scale`` and ``zero_point`` of shape [], [C] or [C, num_groups]. A subclass overrides what it does otherwise.

    learned_ends: whose grid ends at a learned a. slope: that of x̂ in a.
    """

    learned_ends: ClassVar[Ends] = "none"
    slope: ClassVar[Slope] = "clip"

    calibrated_scale: Tensor
    zero_point: Tensor

    def make_parameters(self) -> None:
        """The calibrated grid, and the clipping point."""
        self.register_buffer("calibrated_scale", torch.full(self.shape(), torch.nan))
        self.register_buffer("zero_point", torch.zeros(self.shape()))
        is_learned = self.learned_ends == "all" or (self.learned_ends == "activations" and not self.is_weight)
        self.clipping_point = Positive(self.shape()) if is_learned else None

    @property
    def is_calibrated(self) -> bool:
        """True once a grid was set."""
        return not bool(torch.isnan(self.calibrated_scale).any())

    @property
    def highest(self) -> Tensor:
        """P, at least 1."""
        return (self.grid.maximum - self.zero_point).clamp(min=1)

    @property
    def scale(self) -> Tensor:
        """S, cut off from gradients."""
        return self.calibrated_scale if self.clipping_point is None else self.clipping_point.value / self.highest

    def set(self, scale: Tensor, zero_point: Tensor) -> None:
        """Start from this grid and switch the quantizer on."""
        self.calibrated_scale.copy_(scale)
        self.zero_point.copy_(zero_point)
        if self.clipping_point is not None:
            self.clipping_point.set(self.calibrated_scale * self.highest)
        self.is_enabled = True

    def start(self, x: Tensor) -> None:
        """Stay on the calibrated grid."""

    def quantize(self, x: Tensor) -> Quantized:
        """``x`` on the grid."""
        return quantize_affine(x, self.scale, self.zero_point, self.grid)

    def simulate(self, x: Tensor) -> Tensor:
        """The same values; in one pass, with the gradients above, where the clipping point is learned."""
        if self.clipping_point is None:
            return self.quantize(x).dequantize().to(x.dtype)
        value, highest = self.clipping_point.value, self.highest
        parameter = with_gradient_times(self.clipping_point.logarithm, 1 / (value * highest))  # ds = da / p
        return on_grid(x, value / highest, self.zero_point, self.grid, parameter, slope=self.slope)
