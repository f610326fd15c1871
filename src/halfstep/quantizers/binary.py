"""Binary weights: a sign each and one scale for those that share it.

    ŵ = a sign(w),   a = E|w|        dŵ/dw = 1/n + a inside,  1/n beyond,      inside: |w| <= 1

E: over the n values that share a scale; of all scales this one has the least squared error. Rastegari et al. 2016, "XNOR-Net: ImageNet
classification using binary convolutional neural networks", equations 4, 6 and 10; a is a constant as far as gradients are concerned, its
dependence on the weight itself is the 1/n.

A grid has 2 bits at least: the codes are -1 and 1 of a 2-bit grid, whose 0 and -2 stay unused, so that integer programs, C and ONNX know
nothing of the method. sign(0) is 1; values that are all 0 keep the code 0. On wider grids, such as those of the first and last layer, and
of activations, this is the calibrated grid. Deviations: without the paper's binary activations, whose levels -1 and 1 hold no 0 and so
break zero padding. Behind a ReLU a symmetric int2 activation has one bit: its codes there are 0 and 1.
"""

from __future__ import annotations

from typing import ClassVar, final

import torch
from torch import Tensor

from halfstep.grid import Quantized
from halfstep.quantizers.abstract import QUANTIZERS
from halfstep.quantizers.clamped_weight import signs
from halfstep.quantizers.learned import rows
from halfstep.quantizers.statistic import AbstractStatisticQuantizer


@final
@QUANTIZERS.register("binary")
class BinaryQuantizer(AbstractStatisticQuantizer):
    """Signs of weights, times the mean of their magnitudes."""

    most_bits: ClassVar[int] = 2

    def quantize_weight(self, w: Tensor) -> Quantized:
        """The signs of ``w``."""
        with torch.no_grad():
            magnitude = rows(w, self.grid).abs()
            mean, count = magnitude.nanmean(-1), (~torch.isnan(magnitude)).sum(-1)
            scale = torch.where(mean > 0, mean, self.scale.to(mean))
            along = self.grid.along(scale, w.shape)
            is_used = self.grid.along(mean > 0, w.shape)
            slope = 1 / (self.grid.along(count, w.shape) * along) + (w.abs() <= 1)
        return Quantized(signs(w, slope) * is_used, scale, self.zero_point, self.grid)
