"""SAWB: the clipping point of weights is read off their first and second moment.

    a = c1 sqrt(E[w^2]) - c2 E|w|        ŵ = s round(clip(w, -a, a) / s),   s = a / h        dŵ/dw = 1

E: over the values that share a scale. h: highest code. c1, c2: from the number of bits, such that a is near the clipping point with the
least squared error for six distributions (normal, uniform, Laplace, logistic, triangular, von Mises) by one linear fit. Choi et al. 2019,
"Accurate and efficient 2-bit quantized neural networks", the weights that go with `pact`.

Deviations: the paper's levels for 2 bits are -a, -a/3, a/3 and a, with c1 = 3.12 and c2 = 2.064; here they hold 0, so that b bits are b
bits, and the constants are those of the same fit for these levels, on 20 001 quantiles of each distribution. They serve 2 to 4 bits, as in
the paper; at more the fit is no longer linear, and the calibrated grid stays. a is kept between E|w| and max|w|. Of activations this is
the calibrated grid.
"""

from __future__ import annotations

from typing import ClassVar, final

import torch
from torch import Tensor

from halfstep.grid import Quantized
from halfstep.quantizers.abstract import QUANTIZERS
from halfstep.quantizers.clamped_weight import nearest
from halfstep.quantizers.learned import rows
from halfstep.quantizers.statistic import AbstractStatisticQuantizer

CONSTANTS = {2: (2.5334, 1.6128), 3: (6.9447, 6.3071), 4: (11.8205, 11.8555)}


@final
@QUANTIZERS.register("sawb")
class SawbQuantizer(AbstractStatisticQuantizer):
    """Clipping point from the moments of the weights."""

    most_bits: ClassVar[int] = max(CONSTANTS)

    def quantize_weight(self, w: Tensor) -> Quantized:
        """``w`` on the grid that ends at a."""
        scale, highest = self._clipping_point(w) / self.grid.maximum, self.grid.maximum
        return Quantized(nearest(w / self.grid.along(scale, w.shape), -highest, highest), scale, self.zero_point, self.grid)

    @torch.no_grad()
    def _clipping_point(self, w: Tensor) -> Tensor:
        """A, [] or [C] or [C, num_groups]; as calibrated where all values are 0."""
        first, second = CONSTANTS[self.grid.bits]
        magnitude = rows(w, self.grid).abs()
        mean, largest = magnitude.nanmean(-1), magnitude.nan_to_num(0.0).amax(-1)
        found = first * magnitude.square().nanmean(-1).sqrt() - second * mean
        return torch.where(largest > 0, torch.minimum(torch.maximum(found, mean), largest), self.scale * self.grid.maximum)
