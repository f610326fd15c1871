"""Weights that jump back and forth between two codes are frozen on the code where they spent most of their time.

    o = 1 where a code changes against the direction of its last change, else 0
    f <- m o + (1 - m) f        c <- m code + (1 - m) c
    f > h(t):  the code stays round(c) from here on        h(t) = end + (start - end) (1 + cos(pi t / T)) / 2

f: how often a weight oscillates, c: its mean code, m: momentum, h: threshold, t of T: steps. A weight on a frozen code is moved with its
scale: w = (code - z) s after every step of the optimizer, so that the scale is still learned. Nagel et al. 2022, "Overcoming oscillations
in quantization-aware training", the method of iterative weight freezing (their algorithm 1), with the threshold's cosine schedule.
Deviation: where a step changes the grid itself, codes and frequencies begin anew.
"""

from __future__ import annotations

import dataclasses
import math
from typing import final

import pydantic
import torch
from torch import Tensor, nn
from torch.fx import GraphModule

from halfstep.errors import RecipeError
from halfstep.grid import Quantized
from halfstep.quantizers import QUANTIZERS, AbstractLearnedQuantizer
from halfstep.steps.training.edges import learned_weights


class FreezingOptions(pydantic.BaseModel):
    """start, end: the threshold in the first and in the last step. momentum: m."""

    model_config = pydantic.ConfigDict(frozen=True, extra="forbid")

    start: float = pydantic.Field(default=0.1, gt=0, le=1)
    end: float = pydantic.Field(default=0.01, ge=0, le=1)
    momentum: float = pydantic.Field(default=0.01, gt=0, le=1)

    def threshold(self, done: float) -> float:
        """h; done: t / T."""
        return self.end + (self.start - self.end) * (1 + math.cos(math.pi * done)) / 2


@final
class Freezing(nn.Module):
    """Of all weights of ``network`` that have a learned quantizer."""

    def __init__(self, network: GraphModule, options: FreezingOptions) -> None:
        super().__init__()
        self.options = options
        weights = learned_weights(network)
        for _, quantizer in weights:
            if not quantizer.keeps_values:
                known = ", ".join(name for name in QUANTIZERS if getattr(QUANTIZERS[name], "keeps_values", False))
                raise RecipeError(
                    f"Codes of '{quantizer.name}' cannot be frozen: a value on its grid, taken for a weight, need not stay there. Leave "
                    f"out the option freezing, or choose one of these for the weights: {known}."
                )
        self._found = [FrozenWeight(weight, quantizer) for weight, quantizer in weights]
        self.weights = nn.ModuleList(self._found)  # for the state

    def update(self, done: float) -> None:
        """After a step of the optimizer; done: the share of the steps that lay before it."""
        threshold = self.options.threshold(done)
        for weight in self._found:
            weight.update(threshold, self.options.momentum)

    def restore(self) -> None:
        """Frozen weights on their codes, whatever else moved them."""
        for weight in self._found:
            weight.restore()

    def begin(self) -> None:
        """Nothing is frozen, and codes are those of now: the grids have changed."""
        for weight in self._found:
            weight.begin()

    def share(self) -> float:
        """Of the weights, how many are frozen; 0 to 1."""
        masks = [weight.is_frozen for weight in self._found]
        return sum(int(mask.sum()) for mask in masks) / max(sum(mask.numel() for mask in masks), 1)


@final
class FrozenWeight(nn.Module):
    """One weight: buffers of its shape. codes: the last ones. direction: of the last change, -1, 0 or 1. frequency: f. mean: c."""

    codes: Tensor
    direction: Tensor
    frequency: Tensor
    mean: Tensor
    is_frozen: Tensor

    def __init__(self, weight: Tensor, quantizer: AbstractLearnedQuantizer) -> None:
        super().__init__()
        self._edge = weight, quantizer  # in a tuple: no parts of this module
        for name in ("codes", "direction", "frequency", "mean"):
            self.register_buffer(name, torch.zeros_like(weight.detach()))
        self.register_buffer("is_frozen", torch.zeros(weight.shape, dtype=torch.bool, device=weight.device))
        self.begin()

    @torch.no_grad()
    def begin(self) -> None:
        """With the codes of now, none of them frozen."""
        weight, quantizer = self._edge
        for buffer in (self.direction, self.frequency, self.is_frozen):
            buffer.zero_()
        for buffer in (self.codes, self.mean):
            buffer.copy_(quantizer.quantize(weight).codes)

    @torch.no_grad()
    def update(self, threshold: float, momentum: float) -> None:
        """Follow the codes one step further."""
        weight, quantizer = self._edge
        quantized = quantizer.quantize(weight)
        move = torch.sign(quantized.codes - self.codes)
        self.frequency.lerp_((move * self.direction < 0).to(self.frequency), momentum)
        self.mean.lerp_(quantized.codes, momentum)
        torch.where(move != 0, move, self.direction, out=self.direction)
        stays = self.is_frozen
        newly = (self.frequency > threshold) & ~stays
        codes = torch.where(stays, self.codes, torch.where(newly, self.mean.round(), quantized.codes))
        self.codes.copy_(codes)
        stays |= newly
        self._place(quantized)

    @torch.no_grad()
    def restore(self) -> None:
        """Put frozen weights on their codes, on the grid of now."""
        weight, quantizer = self._edge
        self._place(quantizer.quantize(weight))

    def _place(self, quantized: Quantized) -> None:
        """On the grid of ``quantized``."""
        value = dataclasses.replace(quantized, codes=self.codes).dequantize()
        weight, _ = self._edge
        weight.copy_(torch.where(self.is_frozen, value, weight))
