"""What may be added to the loss so that weights come to rest on their codes.

    damping:  l(t) sum (ŵ - clip(w, n s, p s))^2,   l(t) = l (1 - cos(pi t / T)) / 2         no gradient in s
    msqe:     k E - a ln k,   E = mean (ŵ - w)^2                                             k, and s, are learned

w: weights of all layers that have a learned quantizer, ŵ: their values on the grid, a constant in w, s: scale, n and p: lowest and highest
code, counted from the zero point, t of T: steps.

Damping: weights near the middle between two codes jump back and forth while training; it pulls them to the nearer code, more and more.
Nagel et al. 2022, "Overcoming oscillations in quantization-aware training", oscillation dampening. No deviation.

Mean squared quantization error: the pull k rises while the error falls, up to a / E. Choi, El-Khamy and Lee 2018, "Learning low precision
deep neural networks through regularization". Deviations: of weights alone; k is a `Positive`, the paper's exp(lambda);
it starts at 1.

Both presume that a value on the grid is near its weight: true of all quantizers but those that transform weights first (``keeps_values``).
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor, nn
from torch.fx import GraphModule

from halfstep.quantizers import AbstractLearnedQuantizer
from halfstep.quantizers.learned import Positive
from halfstep.steps.training.edges import learned_weights


@dataclass(frozen=True)
class Regularization:
    """damping: l. msqe: a. 0: none."""

    damping: float = 0.0
    msqe: float = 0.0


@final
class Regularizer(nn.Module):
    """Of the weights of ``network``; its only parameter is k."""

    def __init__(self, network: GraphModule, options: Regularization) -> None:
        super().__init__()
        self.options = options
        self.pull = Positive(()) if options.msqe else None
        if self.pull is not None:
            self.pull.set(torch.ones(()))
        self._weights = learned_weights(network)  # in a list: no part of this module

    def forward(self, done: float) -> Tensor:
        """What is added to the loss; done: t / T."""
        if not self._weights:
            return torch.zeros(())
        total = torch.zeros((), device=self._weights[0][0].device)
        if self.options.damping:
            factor = self.options.damping * (1 - math.cos(math.pi * done)) / 2
            total = total + factor * torch.stack([_distance(weight, quantizer) for weight, quantizer in self._weights]).sum()
        if self.pull is not None:
            squares = torch.stack([(quantizer(weight.detach()) - weight).square().sum() for weight, quantizer in self._weights]).sum()
            pull = self.pull.with_gradient()
            total = total + pull * squares / sum(weight.numel() for weight, _ in self._weights) - self.options.msqe * torch.log(pull)
        return total


def _distance(weight: Tensor, quantizer: AbstractLearnedQuantizer) -> Tensor:
    """The sum of (ŵ - clip(w))^2."""
    with torch.no_grad():
        quantized = quantizer.quantize(weight)
        ends = [torch.full_like(quantized.codes, code) for code in (quantized.grid.minimum, quantized.grid.maximum)]
        low, high, value = (dataclasses.replace(quantized, codes=codes).dequantize() for codes in (*ends, quantized.codes))
    return (value - torch.clamp(weight, low, high)).square().sum()
