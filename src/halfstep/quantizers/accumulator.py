"""Quantizer of a bias: int32 on the grid of the accumulator it is added to.

    scale[c] = scale_input * scale_weight[c]        zero_point = 0        codes = clamp(round(bias / scale), int32)

so that an integer kernel adds it to the products without any rescaling (Jacob et al. 2018, "Quantization and Training of Neural
Networks for Efficient Integer-Arithmetic-Only Inference", section 2.4). The scale is derived at every call: it follows the
input's and the weight's quantizers wherever calibration or training moves them. Deviation: codes are computed in float64,
because float32 cannot hold 32-bit integers.
"""

from __future__ import annotations

from typing import final

import torch
from torch import Tensor

from halfstep.grid import Grid, Quantized, quantize_affine
from halfstep.quantizers.abstract import QUANTIZERS, AbstractQuantizer
from halfstep.quantizers.uniform import UniformQuantizer


@final
@QUANTIZERS.register("accumulator")
class AccumulatorQuantizer(AbstractQuantizer):
    """Bias of shape [C] on the product of its input's and its weight's scales.

    The two sources live elsewhere in the graph; they are held in a tuple so that the bias does not own their state.
    """

    def __init__(self, grid: Grid, sources: tuple[UniformQuantizer, UniformQuantizer]) -> None:
        super().__init__(grid)
        self.sources = sources

    @property
    def is_calibrated(self) -> bool:
        """True once both sources are."""
        return all(source.is_calibrated for source in self.sources)

    @property
    def scale(self) -> Tensor:
        """Shape [] or [C], float64."""
        from_input, from_weight = (source.scale.double() for source in self.sources)
        return from_input * from_weight

    @property
    def zero_point(self) -> Tensor:
        """Always 0."""
        return torch.zeros_like(self.scale)

    def quantize(self, x: Tensor) -> Quantized:
        """Bias ``x`` of shape [C]; codes in float64."""
        return quantize_affine(x.double(), self.scale, self.zero_point, self.grid)
