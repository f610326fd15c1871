"""LSQ: the scale is learned together with the weights, by the slope of the quantized value in it.

    v = x / s        x̂ = s clip(round(v), n, p)
    dx̂/ds = round(v) - v   inside,   n below,   p above        dL/ds <- g dL/ds,   g = 1 / sqrt(N p)

s: scale, one for the tensor (as in the paper) or one a channel. n, p: lowest and highest code, counted from the zero point. N: the number
of values that s stands for, of a weight or of one sample of an activation. Esser et al. 2020, "Learned step size quantization", equations
1 to 3, sections 2.1 and 2.2. Started as in the paper, s = 2 E|x| / sqrt(p).

Deviations: the parameter is ln s, with a gradient that makes gradient descent move s as it would in the paper (`learned.py`), so that s
stays positive. The zero point is fixed where calibration put it: 0 on symmetric grids, as in the paper; on others, such as those of signed
activations on unsigned codes, the code of 0, so that zero padding stays exact (`lsq_plus` learns it). Values exactly on n or p count as
inside (`learned_step.py`).
"""

from __future__ import annotations

from typing import final

import torch
from torch import Tensor

from halfstep.grid import Quantized, quantize_affine
from halfstep.quantizers.abstract import QUANTIZERS
from halfstep.quantizers.learned import AbstractLearnedQuantizer, Positive, rows
from halfstep.quantizers.learned_step import on_grid, with_gradient_times


@final
@QUANTIZERS.register("lsq")
class LsqQuantizer(AbstractLearnedQuantizer):
    """Learned step size. scale_gradient: whether the gradient of the scale is multiplied by g."""

    zero_point: Tensor

    scale_gradient: bool = True

    def make_parameters(self) -> None:
        """The step."""
        self.step = Positive(self.shape())
        self.register_buffer("zero_point", torch.zeros(self.shape()))

    @property
    def is_calibrated(self) -> bool:
        """True once a scale was set."""
        return self.step.is_set

    def set(self, scale: Tensor, zero_point: Tensor) -> None:
        """Start from this grid and switch the quantizer on."""
        self.step.set(scale)
        self.zero_point.copy_(zero_point)
        self.is_enabled = True

    def start(self, x: Tensor) -> None:
        """S = 2 E|x| / sqrt(p)."""
        highest = (self.grid.maximum - self.zero_point).clamp(min=1)
        self.step.set(started(rows(x, self.grid).abs().nanmean(-1), highest, self.step.value))

    def quantize(self, x: Tensor) -> Quantized:
        """``x`` on the grid."""
        return quantize_affine(x, self.step.value, self.zero_point, self.grid)

    def simulate(self, x: Tensor) -> Tensor:
        """The same values in one pass, with the gradients above."""
        scale = self.step.value
        factor = gradient_scale(self, x, self.grid.maximum - self.zero_point) if self.scale_gradient else 1.0
        return on_grid(x, scale, self.zero_point, self.grid, with_gradient_times(self.step.logarithm, factor / scale))


def gradient_scale(quantizer: AbstractLearnedQuantizer, x: Tensor, highest: Tensor) -> Tensor:
    """G = 1 / sqrt(N p)."""
    return torch.rsqrt(quantizer.num_features(x) * highest.clamp(min=1))


def started(mean_magnitude: Tensor, highest: Tensor, fallback: Tensor) -> Tensor:
    """2 E|x| / sqrt(p); ``fallback`` where all values are 0."""
    return torch.where(mean_magnitude > 0, 2 * mean_magnitude / highest.sqrt(), fallback)
