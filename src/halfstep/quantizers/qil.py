"""QIL: the interval of weights that get codes of their own is learned, by its centre and half its width.

    m = (|w| - c) / 2d + 1/2        t = sign(w) clip(m, 0, 1)^g        ŵ = u round(h t) / h
    dŵ/dw = u g m^(g-1) / 2d        dŵ/dc = -sign(w) dŵ/dw     dŵ/dd = -(|w| - c) / d sign(w) dŵ/dw     dŵ/dg = u t ln m
    activations:  x̂ = s round(clip(x, 0, a) / s),  s = a / p        dx̂/da = round(v) / p - v / p   inside,   1 beyond,      v = x / s

c: centre, d: half the width, g: exponent, h: highest code, u: its value. What lies below c - d is pruned, what lies above c + d is clipped;
all slopes are 0 there. a: upper end of an activation's interval, p: its highest code. Jung et al. 2019, "Learning to quantize deep
networks by optimizing quantization intervals with task loss". The paper names no start; both starts take the interval
[0, h s] of the calibrated scale s, on which the codes are those of rounding to nearest.

Deviations: u is h s, a constant, instead of 1, so that a trained network keeps computing what it computed (behind a batch norm it makes no
difference). g is 1 unless ``learn_exponent`` asks for it. The parameters are logarithms (`learned.py`). m = 0 and m = 1 count as inside, as
in `learned_step.py`. An activation's interval begins at 0 and its values keep their size: codes that begin elsewhere than at 0 are no grid
of an integer program. The chain rule through both then gives the slope above, that of CG-PACT.
"""

from __future__ import annotations

from typing import ClassVar, final

import torch
from torch import Tensor

from halfstep.grid import Quantized, round_straight_through
from halfstep.quantizers.abstract import QUANTIZERS
from halfstep.quantizers.calibrated import AbstractCalibratedQuantizer, Ends
from halfstep.quantizers.learned import Positive
from halfstep.quantizers.learned_step import Slope

_LEAST = 1e-4  # of m under an exponent: the slope of m^g has no bound at 0 where g < 1


@final
@QUANTIZERS.register("qil")
class QilQuantizer(AbstractCalibratedQuantizer):
    """Learned interval. learn_exponent: whether the weights' g is learned or stays 1."""

    keeps_values: ClassVar[bool] = False
    learned_ends: ClassVar[Ends] = "activations"
    slope: ClassVar[Slope] = "step"

    learn_exponent: bool = False

    def make_parameters(self) -> None:
        """Of weights, the interval; of activations, its end."""
        super().make_parameters()
        self.centre = Positive(self.shape()) if self.is_weight else None
        self.half_width = Positive(self.shape()) if self.is_weight else None
        self.exponent = Positive(self.shape()) if self.is_weight and self.learn_exponent else None

    @property
    def largest(self) -> Tensor:
        """U = h s, of the calibrated scale."""
        return self.calibrated_scale * self.highest

    def set(self, scale: Tensor, zero_point: Tensor) -> None:
        """Start from this grid and switch the quantizer on."""
        super().set(scale, zero_point)
        for half in (self.centre, self.half_width):
            if half is not None:
                half.set(self.largest / 2)
        if self.exponent is not None:
            self.exponent.set(torch.ones_like(self.largest))

    def quantize(self, x: Tensor) -> Quantized:
        """``x`` on the grid."""
        if not self.is_weight:
            return super().quantize(x)
        codes = round_straight_through(self._transformed(x) * self.grid.maximum)
        return Quantized(codes, self.largest / self.grid.maximum, self.zero_point, self.grid)

    def _transformed(self, w: Tensor) -> Tensor:
        """T of weights, between -1 and 1."""
        assert self.centre is not None and self.half_width is not None
        centre, half_width = (self.grid.along(p.with_gradient(), w.shape) for p in (self.centre, self.half_width))
        sign = torch.where(w < 0, -1.0, 1.0).to(w.dtype)  # of 0 too: a weight there may go either way
        position = (w * sign - centre) / (2 * half_width) + 0.5
        inside = torch.clamp(position, 0, 1)  # its slope is 1 at both ends
        if self.exponent is not None:
            curved = inside.clamp(min=_LEAST) ** self.grid.along(self.exponent.with_gradient(), w.shape)
            inside = torch.where(inside > 0, curved, inside)
        return sign * inside
