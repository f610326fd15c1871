"""The part of block reconstruction that learns: codes and activation steps of one unit, started from the codes it has.

    W̃ = s (base + h(V))        base, base + 1: the current code and its neighbour on the side of the float weight
    x̄ = s_a clip(round(x / s_a), n, p)        dx̄/ds_a = round(x / s_a) - x / s_a inside the limits, n or p beyond

V: as in AdaRound. s_a: an activation's step, learned as its logarithm. Esser et al. 2020, "Learned step size quantization", equation 3 (the
slope in s_a). Wei et al. 2022, "QDrop", section 4: while learning, each value of an activation is left unquantized with some probability.

Where V starts. With r = W / s - code, up to rounding the float weight's side of the code, the neighbour is code + sign(r) and h starts
``softness`` min(|r|, 1) of the way towards it (at least 0.02, so that there is a slope): the decision is that of the current code, and the
nearer the float weight is to the neighbour, the easier it flips. Zeros of the float weight that have the code of 0 stay.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from halfstep.grid import Quantized
from halfstep.quantizers import UniformQuantizer
from halfstep.rounding.relaxation import Relaxation

_RELAXATION = Relaxation()
_LEAST_SHARE = 0.02


class SoftCodes:
    """One layer's codes between their current values and a neighbour. V is what is learned."""

    def __init__(self, weight: Tensor, start: Quantized, softness: float) -> None:
        grid, shape = start.grid, start.codes.shape
        self.start, self.step = start, grid.along(start.scale, shape)
        zero_point = grid.along(start.zero_point, shape)
        integers = start.codes - zero_point
        residual = weight / self.step - integers
        goes_up = residual >= 0
        is_open = torch.where(goes_up, start.codes < grid.maximum, start.codes > grid.minimum) & ~((weight == 0) & (integers == 0))
        share = (softness * residual.abs().clamp(max=1)).clamp(min=_LEAST_SHARE)
        self.base = integers - (is_open & ~goes_up).to(integers.dtype)
        self.V = _RELAXATION.inverse(torch.where(goes_up, share, 1 - share)).where(is_open, -torch.inf)

    def soft(self) -> tuple[Tensor, Tensor, Tensor]:
        """(the soft weight, h, dh/dV)."""
        h, slope = _RELAXATION.soft(self.V)
        return (self.base + h) * self.step, h, slope

    def hard(self) -> Quantized:
        """The codes decided on."""
        grid = self.start.grid
        codes = self.base + (self.V >= 0) + grid.along(self.start.zero_point, self.base.shape)
        return Quantized(codes, self.start.scale, self.start.zero_point, grid)


class _LearnedStep(torch.autograd.Function):
    """x̄ and its slopes in x and in the logarithm of the step; where ``dropped`` is 1, x passes through.

    Masks are floats and buffers are used again: on the CPU that is half the cost of the plain form.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, logarithm: Tensor, scale: Tensor, limits: tuple[Tensor, Tensor], dropped: Tensor | None) -> Tensor:
        position = x / scale
        rounded = torch.round(position)
        limited = torch.clamp(rounded, *limits)
        inside = torch.eq(limited, rounded, out=rounded)
        slope = torch.sub(limited, position.mul_(inside), out=position)
        value = limited.mul_(scale)
        if dropped is not None:
            value.lerp_(x, dropped)
            slope.addcmul_(slope, dropped, value=-1)
            inside = torch.maximum(inside, dropped, out=inside)
        ctx.save_for_backward(inside, slope, scale)
        ctx.shape = logarithm.shape
        return value

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        inside, slope, scale = ctx.saved_tensors
        in_step = None
        if ctx.needs_input_grad[1]:
            in_step = slope.mul_(gradients[0]).sum_to_size(scale.shape).mul(scale).view(ctx.shape)  # d s / d log s = s
        return inside.mul_(gradients[0]), in_step, None, None, None


class DroppingQuantizer(nn.Module):
    """Stands in for an activation's quantizer while its unit learns; ``drop`` is 0 for the unit's output. Drops in training mode alone."""

    def __init__(self, quantizer: UniformQuantizer, drop: float, is_learned: bool, generator: torch.Generator) -> None:
        super().__init__()
        self.quantizer, self.drop, self.generator = quantizer, drop, generator
        self.logarithm = nn.Parameter(torch.zeros_like(quantizer.scale), requires_grad=is_learned and quantizer.is_enabled)

    @property
    def scale(self) -> Tensor:
        """The step learned so far."""
        return (self.quantizer.scale * self.logarithm.detach().exp()).clone()

    def forget(self) -> None:
        """Back to the step before learning."""
        self.logarithm.data.zero_()

    def forward(self, x: Tensor) -> Tensor:
        """``x`` on the grid, where it is not dropped."""
        if not self.quantizer.is_enabled:
            return x
        grid = self.quantizer.grid
        scale, zero_point = (grid.along(tensor, x.shape) for tensor in (self.scale, self.quantizer.zero_point))
        dropped = drop_mask(x, self.drop, self.generator) if self.training and self.drop else None
        found: Tensor = _LearnedStep.apply(  # type: ignore[no-untyped-call]
            x, self.logarithm, scale, (grid.minimum - zero_point, grid.maximum - zero_point), dropped
        )
        return found


def drop_mask(like: Tensor, probability: float, generator: torch.Generator) -> Tensor:
    """1 with ``probability``, in 256ths, and else 0, for each value of a tensor: one random byte each, from a generator on its device."""
    number = like.numel()
    words = torch.empty(-(-number // 8), dtype=torch.int64, device=like.device).random_(-(2**63), None, generator=generator)
    mask = torch.empty_like(like)  # laid out alike, so that whatever combines them runs through memory in one go
    rows = mask.movedim(1, -1) if mask.is_contiguous(memory_format=torch.channels_last) and mask.ndim == 4 else mask
    torch.lt(words.view(torch.uint8)[:number].view(rows.shape), round(256 * probability), out=rows)
    return mask
