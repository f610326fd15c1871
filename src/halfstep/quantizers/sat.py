"""SAT: weights by their hyperbolic tangent on fixed levels, at a spread that keeps gradients alive; activations by CG-PACT.

    weights:      t = tanh(w) / max|tanh(w)|,   q = nearest level,   ŵ = c q
                  constant:  c = 1 / sqrt(n VAR[q])        std:  c = sqrt(VAR[w] / VAR[q])        none:  c = 1
    activations:  x̂ = s round(clip(x, 0, a) / s),  s = a / p
                  dx̂/da = round(v) / p - v / p   inside,   1 beyond,        v = x / s

n: output channels times places of the kernel. VAR: of all values of the tensor; like max a constant as far as gradients are concerned. a:
clipping point. p: highest code. Jin et al. 2020, "Towards efficient training for neural network quantization", rule 2 and equations 9
to 17; the levels are in `clamped_weight.py`. Started as in the authors' code, a = ``clip``.

``constant`` is the paper's rescaling, for layers without a batch norm behind them in networks trained from the beginning. ``std``, the
default, gives the quantized weight the spread of the real one: a trained network keeps computing what it computed. Behind a batch norm all
three are the same. Deviations: the parameter is ln a (`learned.py`) instead of |a|; the default levels hold 0, so that b bits are b bits;
grids with codes below 0 are clipped at both ends by the same parameter.
"""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal, final

import torch
from pydantic import Field
from torch import Tensor

from halfstep.grid import Quantized
from halfstep.quantizers.abstract import QUANTIZERS
from halfstep.quantizers.calibrated import AbstractCalibratedQuantizer, Ends
from halfstep.quantizers.clamped_weight import Levels, clamped, on_levels
from halfstep.quantizers.learned import rows, variance
from halfstep.quantizers.learned_step import Slope

Rescale = Literal["std", "constant", "none"]


@final
@QUANTIZERS.register("sat")
class SatQuantizer(AbstractCalibratedQuantizer):
    """Scale-adjusted training. levels: symmetric, dorefa, centred, binary. rescale: c of weights. clip: start of a, if not calibrated."""

    keeps_values: ClassVar[bool] = False
    learned_ends: ClassVar[Ends] = "activations"
    slope: ClassVar[Slope] = "step"

    levels: Levels = "symmetric"
    rescale: Rescale = "std"
    clip: Annotated[float, Field(gt=0)] = 8.0

    def start(self, x: Tensor) -> None:
        """A = ``clip``, whatever the values are."""
        if self.clipping_point is not None:
            self.clipping_point.set(torch.full(self.shape(), self.clip))

    def quantize(self, x: Tensor) -> Quantized:
        """``x`` on its levels or on the grid."""
        if not self.is_weight:
            return super().quantize(x)
        found = on_levels(clamped(x, self.grid), self.levels, self.grid)
        return Quantized(found.codes, found.scale * self._factor(x, found), found.zero_point, self.grid)

    @torch.no_grad()
    def _factor(self, w: Tensor, levels: Quantized) -> Tensor:
        """c, [] or [C]."""
        found = variance(rows(levels.dequantize(), self.grid))
        if self.rescale == "none":
            return torch.ones_like(found)
        wanted = variance(rows(w, self.grid)) if self.rescale == "std" else torch.full_like(found, w.shape[1] / w.numel())
        return torch.where((found > 0) & (wanted > 0), torch.sqrt(wanted / found), 1)
