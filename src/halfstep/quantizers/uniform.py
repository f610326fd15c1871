"""Uniform affine quantizer with a fixed scale: what post-training quantization leaves behind.

    codes = clamp(round(x / scale) + zero_point, minimum, maximum)        value = (codes - zero_point) * scale

scale > 0: the width of one step. zero_point: the code of the value 0. Rounding is half to even, as in ONNX QuantizeLinear
(ONNX operator specification, QuantizeLinear, opset 21). The gradient passes straight through inside the range and is zero
outside. No deviation.
"""

from __future__ import annotations

from typing import final

import torch
from torch import Tensor

from halfstep.errors import CalibrationError
from halfstep.grid import Grid, Quantized, quantize_affine
from halfstep.quantizers.abstract import QUANTIZERS, AbstractQuantizer


@final
@QUANTIZERS.register("uniform")
class UniformQuantizer(AbstractQuantizer):
    """Evenly spaced levels; buffers ``scale`` and ``zero_point`` of shape [], [C] or [C, num_groups], as `Grid.scale_shape` says."""

    scale: Tensor
    zero_point: Tensor

    def __init__(self, grid: Grid, num_channels: int | None = None, num_groups: int | None = None) -> None:
        super().__init__(grid)
        if (grid.channel_axis is None) != (num_channels is None):
            raise ValueError("num_channels goes with a grid that has a channel axis")
        if (grid.group_size is None) != (num_groups is None):
            raise ValueError("num_groups goes with a grid that has groups")
        shape = [size for size in (num_channels, num_groups) if size is not None]
        self.register_buffer("scale", torch.full(shape, torch.nan))
        self.register_buffer("zero_point", torch.zeros(shape))

    @property
    def is_calibrated(self) -> bool:
        """True once a scale was set."""
        return not bool(torch.isnan(self.scale).any())

    def set(self, scale: Tensor, zero_point: Tensor) -> None:
        """Fix the grid on the real line and switch the quantizer on; both of the shape of ``scale``, scale > 0, zero_point a code."""
        scale = scale.to(self.scale.dtype)  # before the check: what float32 cannot hold is 0 or infinite
        if not bool((scale > 0).all() and torch.isfinite(scale).all()):
            raise CalibrationError(f"A scale is positive and finite, not {scale.flatten().tolist()[:8]}.")
        self.scale.copy_(scale)
        self.zero_point.copy_(zero_point)
        self.is_enabled = True

    def quantize(self, x: Tensor) -> Quantized:
        """``x`` on the grid; `CalibrationError` before a scale was set."""
        if not self.is_enabled and not self.is_calibrated:
            raise CalibrationError("This quantizer has no scale yet: run the step 'calibrate' first.")
        return quantize_affine(x, self.scale, self.zero_point, self.grid)

    def configuration(self) -> dict[str, object]:
        """Grid, number of channels and, where there are groups, their number."""
        sizes = zip(("num_channels", "num_groups"), self.scale.shape, strict=False)
        return {**super().configuration(), "num_channels": None, **dict(sizes)}
