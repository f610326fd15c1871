"""Binary weights, a sign each and one scale for those that share it, and binary activations, above or below a threshold.

    weights:      ŵ = a sign(w),   a = E|w|        dŵ/dw = 1/n + a inside,  1/n beyond,      inside: |w| <= 1
    zero_one:     x̂ = s round(x / s), on an int2 grid behind a ReLU 0 or s       dx̂/dx = F(2|x| / s - 1)
    signs:        x̂ = b sign(u),   u = (x - c) / b                             dx̂/dx = F(u),   dx̂/dc = -F(u)
                  F(u) = 2 - 2|u| inside,  0 beyond,                           inside: |u| <= 1

E: over the n values that share a scale; of all scales this one has the least squared error. Rastegari et al. 2016, "XNOR-Net: ImageNet
classification using binary convolutional neural networks", equations 4, 6 and 10; a is a constant as far as gradients are concerned, its
dependence on the weight itself is the 1/n. s: the calibrated scale. b: s / 2. c: a shift for each channel, learned, from s / 2 on, where
the calibrated grid has its threshold. F: the slope of a polynomial of second degree in two pieces that stands for the sign. Liu et al.
2020, "ReActNet: towards precise binary neural network with generalized activation functions": the learned shift (RSign) and the gradient,
from Liu et al. 2018, "Bi-Real net". The option ``activations`` chooses; ``grid`` is the calibrated grid, with the gradient of
`grid.quantize_affine`.

A grid has 2 bits at least: the codes of weights are -1 and 1 of a 2-bit grid, whose 0 and -2 stay unused, so that integer programs, C and
ONNX know nothing of the method; those of ``zero_one`` are 0 and 1, by the rounding of the grid. ``signs`` has no integer form: no rounding
to a grid that holds 0, which padding needs, gives -1 and 1 alone. It stays in the simulated network.

sign(0) is 1; weights that are all 0 keep the code 0. Wider grids, such as those of the first and last layer, and other 2-bit ones are the
calibrated grid. Deviations: ``zero_one`` has no shift of its own, since that of the batch norm in front is one. b is a constant, so that a
trained network keeps computing something like what it computed. The shifts are in units of b. Without ReActNet's activation functions.
"""

from __future__ import annotations

from typing import Any, ClassVar, Literal, final

import torch
from torch import Tensor, nn

from halfstep.grid import Quantized
from halfstep.quantizers.abstract import QUANTIZERS
from halfstep.quantizers.clamped_weight import signs
from halfstep.quantizers.learned import rows
from halfstep.quantizers.statistic import AbstractStatisticQuantizer

Activations = Literal["grid", "zero_one", "signs"]


@final
@QUANTIZERS.register("binary")
class BinaryQuantizer(AbstractStatisticQuantizer):
    """Signs of weights, times the mean of their magnitudes. activations: grid, zero_one, or signs around a learned shift; of int2 grids."""

    most_bits: ClassVar[int] = 2
    way_out: ClassVar[str] = "Train with its option activations at zero_one"

    activations: Activations = "grid"

    def make_parameters(self) -> None:
        """A shift, where the levels are signs around it."""
        super().make_parameters()
        grid = self.grid
        is_binary = not self.is_weight and grid.bits == 2 and grid.signed and grid.symmetric and grid.channel_axis is None
        self.levels: Activations = self.activations if is_binary else "grid"
        self.shift = nn.Parameter(torch.zeros(1)) if self.levels == "signs" else None  # (c - b) / b, [1] or one a channel

    @property
    def is_uniform(self) -> bool:
        """False of signs: their levels are not reached by rounding."""
        return self.levels != "signs"

    def expect(self, shape: tuple[int | None, ...]) -> None:
        """A shift for each channel, if the tensor is images or rows of features."""
        if self.shift is not None and len(shape) in (2, 4) and shape[1] is not None:
            self.shift = nn.Parameter(torch.zeros(shape[1]))

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

    def quantize(self, x: Tensor) -> Quantized:
        """``x`` on the grid."""
        if self.levels != "signs":
            return super().quantize(x)
        half = self.scale / 2
        position = self._position(x, half)
        return Quantized(signs(position, _slope(position.detach())), half, self.zero_point, self.grid)

    def simulate(self, x: Tensor) -> Tensor:
        """The same values, with the gradients above."""
        if self.levels != "zero_one":
            return super().simulate(x)
        values = self.quantize(x.detach()).dequantize().to(x.dtype)
        found: Tensor = _Sloped.apply(x, values, _slope(2 * x.detach().abs() / self.scale - 1))  # type: ignore[no-untyped-call]
        return found

    def _position(self, x: Tensor, half: Tensor) -> Tensor:
        """U."""
        assert self.shift is not None
        shift = self.shift.view(-1, *[1] * (x.ndim - 2)) if self.shift.numel() > 1 else self.shift
        return x / half - (1 + shift)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *rest: Any) -> None:
        """As many shifts as were saved."""
        saved = state_dict.get(f"{prefix}shift")
        if self.shift is not None and saved is not None:
            self.shift = nn.Parameter(torch.zeros_like(saved, device=self.shift.device))
        super()._load_from_state_dict(state_dict, prefix, *rest)


def _slope(u: Tensor) -> Tensor:
    """F."""
    return torch.clamp(2 - 2 * u.abs(), min=0)


class _Sloped(torch.autograd.Function):
    """``values`` in place of x, with the gradient multiplied by ``slope``."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, values: Tensor, slope: Tensor) -> Tensor:
        ctx.save_for_backward(slope)
        return values

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        return gradients[0] * ctx.saved_tensors[0], None, None
