"""NICE: one layer after another goes from real weights to noise and from noise to codes.

    weights, before their turn:   ŵ = clip(w, -a, a)
    in their turn:                ŵ = clip(w, -a, a) + e,   e ~ U(-s/2, s/2)    with probability ``noise``, else as after it
    after their turn:             ŵ = s round(clip(w, -a, a) / s)                     dŵ/dw = 1 inside, 0 beyond, at all times
    activations:                  x̂ = s round(clip(x, 0, a) / s),   s = a / p         dx̂/da = 0 inside, 1 beyond

a: clipping point, of activations learned, s: a over the highest code. Baskin et al. 2018, "NICE: noise injection and clamping estimation
for neural network quantization". Started as in the paper, a = mean + 3 standard deviations of the weights; else where
calibration put it. The turns follow each other in the order of computation during the share ``turns`` of the training; outside a training
run of the step `finetune`, and whenever the network is in eval mode, all weights are on their codes.

Deviations: weights are clipped on both sides of 0, at |mean| + 3 deviations. Activations are on their codes at all times, and their
clipping point starts where calibration put it; they count as layers in the order of turns. Biases are rounded at the end.
"""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal, final

import torch
from pydantic import Field
from torch import Tensor

from halfstep.quantizers.abstract import QUANTIZERS
from halfstep.quantizers.calibrated import AbstractCalibratedQuantizer, Ends
from halfstep.quantizers.learned import rows, variance

_NUM_DEVIATIONS = 3.0
Stage = Literal["real", "noisy", "rounded"]


@final
@QUANTIZERS.register("nice")
class NiceQuantizer(AbstractCalibratedQuantizer):
    """Noise injection and clamping. noise: share of a layer's weights that get noise in its turn. turns: share of the training."""

    learned_ends: ClassVar[Ends] = "activations"

    noise: Annotated[float, Field(ge=0, le=1)] = 0.05
    turns: Annotated[float, Field(ge=0, le=1)] = 0.75

    def make_parameters(self) -> None:
        """A clipping point; weights begin without noise."""
        super().make_parameters()
        self.stage: Stage = "rounded"

    def start(self, x: Tensor) -> None:
        """Clip weights at |mean| + 3 deviations."""
        if self.is_weight:
            values = rows(x, self.grid)
            reach = values.nanmean(-1).abs() + _NUM_DEVIATIONS * variance(values).sqrt()
            self.calibrated_scale.copy_(torch.where(reach > 0, reach / self.highest, self.scale))

    def follow(self, done: float, index: int, count: int) -> None:
        """The turn of quantizer ``index`` begins at index / count of the share ``turns``."""
        position = done * count - index * self.turns if self.turns else count
        self.stage = "real" if position < 0 else "noisy" if position < self.turns else "rounded"

    def simulate(self, x: Tensor) -> Tensor:
        """The same values but for weights before and in their turn, with the gradients above."""
        if not self.is_weight or not self.training or self.stage == "rounded":
            return super().simulate(x)
        scale = self.grid.along(self.scale, x.shape)
        zero_point = self.grid.along(self.zero_point, x.shape)
        clipped = torch.clamp(x, (self.grid.minimum - zero_point) * scale, (self.grid.maximum - zero_point) * scale)
        if self.stage == "real":
            return clipped
        return torch.where(torch.rand_like(x) < self.noise, clipped + (torch.rand_like(x) - 0.5) * scale, self.quantize(x).dequantize())
