"""DoReFa: weights by their hyperbolic tangent on fixed levels, activations clipped at a fixed point.

    weights:      t = tanh(w) / max|tanh(w)|,   q = nearest level        dq/dw = (1 - tanh(w)^2) / max|tanh(w)|
    activations:  x̂ = s round(clip(x, 0, a) / s),  s = a / p               dx̂/dx = 1 inside, 0 beyond

p: highest code. a: clipping point, 1 in the paper. Nothing but the weights is learned. Zhou et al. 2016, "DoReFa-Net: training low bitwidth
convolutional neural networks with low bitwidth gradients", equations 5 and 9; the levels are in `clamped_weight.py`. Gradients are not
quantized here.

Deviations: the default levels hold 0 (``levels: dorefa`` are the paper's below 8 bits); activations keep the range that calibration found,
since those of a network trained without a bound do not fit below 1, unless the step starts quantizers as the paper does.
"""

from __future__ import annotations

from typing import ClassVar, final

from torch import Tensor

from halfstep.grid import Quantized
from halfstep.quantizers.abstract import QUANTIZERS
from halfstep.quantizers.calibrated import AbstractCalibratedQuantizer
from halfstep.quantizers.clamped_weight import Levels, clamped, on_levels


@final
@QUANTIZERS.register("dorefa")
class DorefaQuantizer(AbstractCalibratedQuantizer):
    """Hyperbolic tangent and fixed levels. levels: symmetric, dorefa, centred or binary; of the weights."""

    keeps_values: ClassVar[bool] = False

    levels: Levels = "symmetric"

    def start(self, x: Tensor) -> None:
        """Clip activations at 1."""
        self.calibrated_scale.copy_(1 / self.highest)

    def quantize(self, x: Tensor) -> Quantized:
        """``x`` on its levels or on the grid."""
        if self.is_weight:
            return on_levels(clamped(x, self.grid), self.levels, self.grid)
        return super().quantize(x)
