"""LSQ+: LSQ with a learned offset for activations that are not one-sided.

    v = (x - b) / s        x̂ = s clip(round(v), n, p) + b
    dx̂/ds = round(v) - v inside,  n below,  p above        dx̂/db = 0 inside,  1 beyond        both times g = 1 / sqrt(N p)

s: scale, b: offset, n and p: lowest and highest code, N as for `lsq`. Bhalgat et al. 2020, "LSQ+: improving low-bit quantization through
learnable offsets and better initialization", equations 3 to 6. Started as in the paper: weights from max|mean ± 3 std|, so that 2^(b-1)
steps reach it (section 3.3); activations where calibration put them (with the range `mse` that is the paper's least-squares start).

Deviations: b is rounded to a multiple of s, so that 0 is a code: zero padding is exact and the grid has an integer zero point
z = round(-b / s), within the codes; the gradient passes straight through that rounding. The parameter of s is its logarithm (`learned.py`).
On a symmetric grid, such as a weight's, there is no offset.
"""

from __future__ import annotations

from typing import final

import torch
from torch import Tensor, nn

from halfstep.grid import Quantized, quantize_affine
from halfstep.quantizers.abstract import QUANTIZERS
from halfstep.quantizers.learned import AbstractLearnedQuantizer, Positive, rows, variance
from halfstep.quantizers.learned_step import on_grid, with_gradient_times
from halfstep.quantizers.lsq import gradient_scale

_NUM_DEVIATIONS = 3.0


@final
@QUANTIZERS.register("lsq_plus")
class LsqPlusQuantizer(AbstractLearnedQuantizer):
    """Learned step size and, on grids that are not symmetric, learned offset."""

    def make_parameters(self) -> None:
        """Step and offset."""
        self.step = Positive(self.shape())
        self.offset = None if self.grid.symmetric else nn.Parameter(torch.zeros(self.shape()))

    @property
    def is_calibrated(self) -> bool:
        """True once a scale was set."""
        return self.step.is_set

    @property
    def zero_point(self) -> Tensor:
        """Z = round(-b / s), a code."""
        if self.offset is None:
            return torch.zeros_like(self.step.unit)
        return torch.clamp(torch.round(-self.offset.detach() / self.step.value), self.grid.minimum, self.grid.maximum)

    def set(self, scale: Tensor, zero_point: Tensor) -> None:
        """Start from this grid and switch the quantizer on."""
        self.step.set(scale)
        if self.offset is not None:
            with torch.no_grad():
                self.offset.copy_(-zero_point * self.step.value)
        self.is_enabled = True

    def start(self, x: Tensor) -> None:
        """Weights from their mean and standard deviation; activations stay where calibration put them."""
        if not self.is_weight:
            return
        values = rows(x, self.grid)
        reach = values.nanmean(-1).abs() + _NUM_DEVIATIONS * variance(values).sqrt()
        self.step.set(torch.where(reach > 0, reach / 2 ** (self.grid.bits - 1), self.step.value))

    def quantize(self, x: Tensor) -> Quantized:
        """``x`` on the grid."""
        return quantize_affine(x, self.step.value, self.zero_point, self.grid)

    def simulate(self, x: Tensor) -> Tensor:
        """The same values in one pass, with the gradients above."""
        scale, zero_point = self.step.value, self.zero_point
        factor = gradient_scale(self, x, self.grid.maximum - zero_point)
        parameter = with_gradient_times(self.step.logarithm, factor / scale)
        if self.offset is None:
            return on_grid(x, scale, zero_point, self.grid, parameter)
        # `on_grid` counts the codes from the zero point, which follows s; with b held, dx̂/ds beyond the grid is larger by z.
        offset = with_gradient_times(self.offset, factor) + with_gradient_times(self.step.logarithm, factor / scale * zero_point)
        return on_grid(x, scale, zero_point, self.grid, parameter, offset)
