"""The one pass that puts a tensor on a grid whose scale is learned, and its slopes.

    v = x / s        x̂ = s clip(round(v), n, p)        n = minimum - z,  p = maximum - z

    dx̂/dx = 1 where n <= v <= p, else 0
    dx̂/ds = round(v) - v  ("step")  or  0  ("clip")    where n <= v <= p;    n below;    p above
    dx̂/db = 0 inside, 1 beyond                         for an offset b that moves the whole grid

s: scale, z: zero point. "step" is LSQ's slope (Esser et al. 2020, equation 3) and, up to a factor, that of CG-PACT (Jin et al. 2020,
equation 17); "clip" is PACT's (Choi et al. 2018, equation 3). Deviation: v = n and v = p count as inside. The papers leave them out, which
is the same for real numbers; but weights that start on their codes lie there by the thousand and would never move.

Masks are floats, buffers are used again, and minimum and maximum stand for a clamp between tensors, which PyTorch does one value at a time:
on the CPU that is a third of the cost of the plain form.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor

from halfstep.grid import Grid

Slope = Literal["step", "clip"]


class _OnGrid(torch.autograd.Function):
    """x̂; gradients in x, in the scale's and in the offset's parameter."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, scale_parameter: Tensor, offset: Tensor | None, scale: Tensor, limits: tuple[Tensor, Tensor], slope_kind: Slope
    ) -> Tensor:
        position = x / scale
        limited = torch.maximum(position, limits[0])
        torch.minimum(limited, limits[1], out=limited)
        inside = torch.eq(limited, position, out=torch.empty_like(position))
        if slope_kind == "clip":
            slope = torch.addcmul(limited, limited, inside, value=-1, out=position)
            limited.round_()
        else:
            slope = torch.addcmul(limited.round_(), position, inside, value=-1, out=position)
        ctx.save_for_backward(inside, slope)
        ctx.along = scale.shape
        return limited.mul_(scale)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        gradient, (inside, slope) = gradients[0], ctx.saved_tensors
        in_scale = _inner(gradient, slope, ctx.along) if ctx.needs_input_grad[1] else None
        in_x = inside * gradient
        in_offset = (gradient - in_x).sum_to_size(ctx.along) if ctx.needs_input_grad[2] else None
        return in_x, in_scale, in_offset, None, None, None


def _inner(a: Tensor, b: Tensor, along: torch.Size) -> Tensor:
    """The sum of ``a b`` over all axes that ``along`` does not have."""
    if len(along) or a.stride() != b.stride() or a.dtype != b.dtype or not is_dense(a):
        return (a * b).sum_to_size(along)
    flat_a, flat_b = (x.as_strided((x.numel(),), (1,)) for x in (a, b))
    if a.dtype == torch.bfloat16:  # in which a long sum is slow, and stops growing
        flat_a, flat_b = flat_a.float(), flat_b.float()
    return torch.dot(flat_a, flat_b)


def is_dense(x: Tensor) -> bool:
    """Whether its values fill one stretch of memory."""
    return x.is_contiguous() or (x.ndim == 4 and x.is_contiguous(memory_format=torch.channels_last))


def on_grid(
    x: Tensor, scale: Tensor, zero_point: Tensor, grid: Grid, scale_parameter: Tensor, offset: Tensor | None = None, slope: Slope = "step"
) -> Tensor:
    """x̂, of the shape of ``x``. What arrives at ``scale_parameter``, which has the shape of ``scale``, is the sum of dL/dx̂ dx̂/ds."""
    along, shift = grid.along(scale, x.shape), grid.along(zero_point, x.shape)
    parameter, moved = grid.along(scale_parameter, x.shape), None if offset is None else grid.along(offset, x.shape)
    found: Tensor = _OnGrid.apply(  # type: ignore[no-untyped-call]
        x, parameter, moved, along, (grid.minimum - shift, grid.maximum - shift), slope
    )
    return found


class _ScaledGradient(torch.autograd.Function):
    """A tensor as it is; its gradient times ``factor``."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, factor: Tensor) -> Tensor:
        ctx.save_for_backward(factor)
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return gradients[0] * ctx.saved_tensors[0], None


def with_gradient_times(x: Tensor, factor: Tensor) -> Tensor:
    """``x``, with its gradient multiplied by ``factor``."""
    found: Tensor = _ScaledGradient.apply(x, factor)  # type: ignore[no-untyped-call]
    return found
