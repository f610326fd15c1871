"""Weights between -1 and 1 by their hyperbolic tangent, and the four sets of levels they may take there.

    t = tanh(w) / max|tanh(w)|        q = level nearest to t        dq/dw = (1 - tanh(w)^2) / max|tanh(w)|

levels      of b bits                                         holds 0   grid of integers
symmetric   k / h,             k = -h .. h,  h = 2^(b-1) - 1    yes       b bits
dorefa      2 k / R - 1,       k = 0 .. R,   R = 2^b - 1        no        b + 1 bits: -R, -R + 2 .. R
            of fewer than 8 bits; else symmetric
centred     (2 k + 1) / 2^b - 1,  k = 0 .. R                    no        b + 1 bits, the same
            of fewer than 8 bits; else symmetric
binary      -1, 1                    of 2 bits; else symmetric  no        2 bits: -1, 1

max: of the tensor or of each channel, a constant as far as gradients are concerned; the gradient passes straight through the rounding.
Zhou et al. 2016, "DoReFa-Net", equation 9, and Jin et al. 2020, "Towards efficient training for neural network quantization", equation 12.
``binary`` is what ``dorefa`` would be at 1 bit, which no grid has. The wider grids of a recipe's first and last layer stay symmetric:
among 256 levels the 0 is no loss, and codes of 9 bits would not fit into a byte. Deviations: max is not differentiated (as in the code of
N2D2); ``symmetric`` is not in the papers, but the only one whose codes are integers of b bits, since between an even number of levels that
mirror each other there is no 0. At 2 bits it has three levels, and every weight below half of the largest becomes 0. For the
others the zero point of the b-bit codes is half-way between two of them; `halfstep.quantizers.freeze` doubles the codes.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor

from halfstep.grid import Grid, Quantized
from halfstep.quantizers.learned import rows

Levels = Literal["symmetric", "dorefa", "centred", "binary"]
_WIDE = 8  # bits from which on levels are symmetric


def clamped(w: Tensor, grid: Grid) -> Tensor:
    """t, with its gradient."""
    tangent = torch.tanh(w)
    largest = rows(tangent.detach().abs(), grid).nan_to_num(0.0).amax(-1)
    return tangent / grid.along(torch.where(largest > 0, largest, 1), w.shape)


def on_levels(t: Tensor, levels: Levels, grid: Grid) -> Quantized:
    """The codes of t, with scale and zero point of the kind the grid has; dequantized they are q. Straight-through in t."""
    shape = grid.scale_shape(t.shape)
    if levels == "binary" and grid.bits == 2:
        codes, scale, zero_point = signs(t, t.new_ones(())), 1.0, 0.0
    elif levels in ("symmetric", "binary") or grid.bits >= _WIDE:
        highest = float(grid.maximum)
        codes, scale, zero_point = nearest(t * highest, -highest, highest), 1 / highest, 0.0
    else:
        num = grid.num_levels
        half = (grid.minimum + grid.maximum) / 2  # -1/2 on a signed grid
        step = 2 / (num - 1) if levels == "dorefa" else 2 / num
        codes = nearest(t / step + half, grid.minimum, grid.maximum)
        scale, zero_point = step, half
    return Quantized(codes, t.new_full(shape, scale), t.new_full(shape, zero_point), grid)


def nearest(x: Tensor, low: float, high: float) -> Tensor:
    """Rounded and limited; the gradient passes as if nothing had happened."""
    found: Tensor = _Nearest.apply(x, low, high)  # type: ignore[no-untyped-call]
    return found


def signs(x: Tensor, slope: Tensor) -> Tensor:
    """-1 below 0, else 1; the gradient is multiplied by ``slope``."""
    found: Tensor = _Signs.apply(x, slope)  # type: ignore[no-untyped-call]
    return found


class _Nearest(torch.autograd.Function):
    """See `nearest`."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, low: float, high: float) -> Tensor:
        return torch.round(x).clamp_(low, high)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        return gradients[0], None, None


class _Signs(torch.autograd.Function):
    """See `signs`."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, slope: Tensor) -> Tensor:
        ctx.save_for_backward(slope)
        return torch.where(x < 0, -1.0, 1.0).to(x.dtype)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return gradients[0] * ctx.saved_tensors[0], None
