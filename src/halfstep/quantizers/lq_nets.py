"""LQ-Nets: levels are sums of a few learned numbers, with and without, so that products are sums of bit planes.

    levels = C v        C: all 2^k rows of {-1, 1}^k of a weight, of {0, 1}^k of an activation        q = level nearest to x
    v <- m v + (1 - m) (B B^T)^-1 B x,    B: the rows of C that the values x have now        dq/dx = 1;  of activations 0 beyond the levels

v: the basis, k numbers for all that share a scale, k: bits, m: 0.9. Zhang et al. 2018, "LQ-Nets: learned quantization for highly accurate
and compact deep neural networks": the alternating least squares of a quantizer (their QEM), one pass of it in every training step, and the
moving average. Nothing is learned by gradients but the weights. Started as in the paper, v_j = 0.6745 d / 2^(k-1) 2^j for weights and
1.349 d / (2^k - 1) 2^j for activations; else the levels are those of the calibrated grid, for weights moved by half a step.

Deviations: d is the standard deviation of the values, of activations that of the normal distribution whose positive half they would be; the
paper has that of its own start of the weights, and 1. A little of the old basis, weighed as one value in 10 000, is added to the equations,
so that levels that nothing is near to stay where they are. Of activations, at most 65 536 values of a step enter the equations. More than 4
bits, and activations with values below 0, keep the calibrated grid. All 2^k levels are used on narrow grids too.

The levels are no grid: the quantizer stays in the simulated network, for its accuracy; integer programs and exports refuse it by name.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from dataclasses import dataclass
from typing import Any, final

import torch
from torch import Tensor

from halfstep.grid import Grid, Quantized
from halfstep.quantizers.abstract import QUANTIZERS
from halfstep.quantizers.calibrated import AbstractCalibratedQuantizer
from halfstep.quantizers.learned import rows, variance
from halfstep.quantizers.learned_step import is_dense

_MOST_BITS = 4
_MOMENTUM = 0.9
_OLD = 1e-4  # weight of the old basis among the values
_MOST_VALUES = 1 << 16
_QUARTILE = 0.6745  # of the standard normal distribution


@final
@dataclass(frozen=True)
class OnLevels(Quantized):
    """A tensor on levels of its own: value = levels[code - lowest code]. levels: ascending, [2^k], [C, 2^k] or [C, num_groups, 2^k]."""

    levels: Tensor

    def dequantize(self) -> Tensor:
        """The levels."""
        return _values(self.levels, (self.codes + _num_below_zero(self.grid)).to(torch.uint8), self.grid)


@final
@QUANTIZERS.register("lq_nets")
class LqNetsQuantizer(AbstractCalibratedQuantizer):
    """Levels from a learned basis, by least squares; simulation only."""

    basis: Tensor

    def make_parameters(self) -> None:
        """The basis, of one number a bit."""
        super().make_parameters()
        self.register_buffer("basis", torch.full((*self.shape(), self.grid.bits), torch.nan))

    @property
    def is_uniform(self) -> bool:
        """False where the levels are its own; True where the calibrated grid stays."""
        if self.grid.bits > _MOST_BITS:
            return True
        return not (self.grid.signed and self.grid.symmetric) if self.is_weight else bool((self.zero_point != self.grid.minimum).any())

    def set(self, scale: Tensor, zero_point: Tensor) -> None:
        """Start from the levels of this grid and switch the quantizer on."""
        super().set(scale, zero_point)
        self.basis = self._basis(self.calibrated_scale / 2 if self.is_weight else self.calibrated_scale)

    def start(self, x: Tensor) -> None:
        """Start from the spread of the values."""
        values, bits = rows(x, self.grid), self.grid.bits
        if self.is_weight:
            smallest = _QUARTILE * variance(values).sqrt() / 2 ** (bits - 1)
        else:
            smallest = 2 * _QUARTILE * (2 * values.square().nanmean(-1)).sqrt() / (2**bits - 1)
        self.basis = torch.where(smallest[..., None] > 0, self._basis(smallest), self.basis)

    def quantize(self, x: Tensor) -> Quantized:
        """``x`` on its levels, or on the grid."""
        if self.is_uniform:
            return super().quantize(x)
        levels, _ = self._levels()
        codes = _nearest(x.detach(), levels, self.grid).to(x.dtype) - _num_below_zero(self.grid)
        return OnLevels(codes, self.calibrated_scale, self.zero_point, self.grid, levels)

    def simulate(self, x: Tensor) -> Tensor:
        """The same values, with the gradients above; while training, the basis learns from them for the next step."""
        if self.is_uniform:
            return super().simulate(x)
        levels, planes = self._levels()
        index = _nearest(x.detach(), levels, self.grid)
        if self.training and torch.is_grad_enabled():
            self._learn(x.detach(), index, planes)
        highest = None if self.is_weight else self.grid.along(levels[..., -1], x.shape)
        found: Tensor = _StraightThrough.apply(x, _values(levels, index, self.grid).to(x.dtype), highest)  # type: ignore[no-untyped-call]
        return found

    def scaled(self, factor: Tensor, axis: int) -> LqNetsQuantizer:
        """The same quantizer of a weight ``factor`` [C] times as large along ``axis``."""
        made = LqNetsQuantizer(dataclasses.replace(self.grid, channel_axis=axis), len(factor), self.num_groups, is_weight=True)
        for own, old in ((made.calibrated_scale, self.calibrated_scale), (made.basis, self.basis), (made.zero_point, self.zero_point)):
            own.copy_(old)
        for own in (made.calibrated_scale, made.basis):
            own.mul_(factor.view(-1, *[1] * (own.ndim - 1)))
        made.is_enabled = self.is_enabled
        return made

    def _basis(self, smallest: Tensor) -> Tensor:
        """Powers of two times ``smallest`` [...]: [..., k]."""
        return smallest[..., None] * 2.0 ** torch.arange(self.grid.bits).to(smallest)

    def _levels(self) -> tuple[Tensor, Tensor]:
        """(levels [..., 2^k] ascending, their rows of C [..., 2^k, k])."""
        signs = (-1.0, 1.0) if self.is_weight else (0.0, 1.0)
        planes = torch.tensor(list(itertools.product(signs, repeat=self.grid.bits))).to(self.basis)
        levels, order = (self.basis @ planes.T).sort(-1)
        return levels, planes[order]

    @torch.no_grad()
    def _learn(self, x: Tensor, index: Tensor, planes: Tensor) -> None:
        """One pass of least squares, averaged with the passes before it."""
        if self.grid.channel_axis is None and is_dense(x) and x.stride() == index.stride():
            values, places = (tensor.as_strided((x.numel(),), (1,)) for tensor in (x, index))  # any order will do: without a copy
        else:
            values, places = rows(x, self.grid), rows(index.to(x.dtype), self.grid)
        if not self.is_weight:
            every = max(1, math.ceil(values.shape[-1] / _MOST_VALUES))
            values, places = values[..., ::every], places[..., ::every]
        is_value = ~torch.isnan(values)
        places = torch.where(is_value, places, 0).long()
        empty = torch.zeros(planes.shape[:-1]).to(self.basis)
        counts = empty.scatter_add(-1, places, is_value.to(empty))
        sums = empty.scatter_add(-1, places, torch.where(is_value, values, 0).to(empty))
        old = _OLD * counts.sum(-1)[..., None]
        gram = planes.mT @ (counts[..., None] * planes) + torch.diag_embed(old.expand_as(self.basis))
        found = torch.linalg.solve(gram, (planes.mT @ sums[..., None]).squeeze(-1) + old * self.basis)
        self.basis.lerp_(found, 1 - _MOMENTUM)


def _num_below_zero(grid: Grid) -> int:
    """How far the lowest of 2^k codes lies below 0."""
    return 1 << (grid.bits - 1) if grid.signed else 0


def _nearest(x: Tensor, levels: Tensor, grid: Grid) -> Tensor:
    """Which level each value is nearest to, uint8 of the shape and layout of ``x``."""
    bounds = (levels[..., 1:] + levels[..., :-1]) / 2
    if grid.channel_axis is not None:
        return _unrows(torch.searchsorted(bounds, rows(x, grid).to(bounds).contiguous()), x, grid).to(torch.uint8)
    found, above = torch.zeros_like(x, dtype=torch.uint8), torch.empty_like(x, dtype=torch.bool)
    for bound in bounds.tolist():  # of at most 15: a quarter of the time of torch.bucketize
        torch.gt(x, bound, out=above)
        found += above.view(torch.uint8)
    return found


def _values(levels: Tensor, index: Tensor, grid: Grid) -> Tensor:
    """The levels at ``index``, in its shape and layout."""
    if grid.channel_axis is not None:
        places = rows(index.to(levels), grid).nan_to_num(0.0).long()  # what fills up a last group is NaN
        return _unrows(levels.gather(-1, places), index, grid)
    if not is_dense(index):
        index = index.contiguous()
    flat = index.as_strided((index.numel(),), (1,)).to(torch.int32)
    return levels.index_select(0, flat).as_strided(index.shape, index.stride())


def _unrows(found: Tensor, x: Tensor, grid: Grid) -> Tensor:
    """What `rows` made of a tensor like ``x``, in the shape of ``x`` again."""
    assert grid.channel_axis is not None
    if grid.group_size is not None:
        return found.flatten(1)[:, : x.shape[1]]
    return found.view(x.movedim(grid.channel_axis, 0).shape).movedim(0, grid.channel_axis)


class _StraightThrough(torch.autograd.Function):
    """``values`` in place of x; the gradient passes, or, with a highest level, between 0 and it alone."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, values: Tensor, highest: Tensor | None) -> Tensor:
        ctx.is_limited = highest is not None
        if highest is not None:
            ctx.save_for_backward((x >= 0) & (x <= highest))
        return values

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        return gradients[0] * ctx.saved_tensors[0] if ctx.is_limited else gradients[0], None, None
