"""The range with which nearest rounding changes the layer's output least.

    argmin over ranges R of   E || W x - W_R x̂ ||^2  =  sum over rows of (v_R - t) H (v_R - t)ᵀ  + constant

W_R: W rounded to nearest on the grid fitted to R, v_R: a row of it. H: E[x̂ x̂ᵀ] of the layer's input. t: a row of W, or what stands in
for it where x̂ is not x. Nagel et al. 2020, "Up or down? Adaptive rounding for post-training quantization", table 6, the last of its three
grids.

The data are not seen yet when the ranges are set: `range` gives the range of least squared error of the weight itself, and `refine`
starts from it when the layer is rounded, so that x̂ is what the layer receives behind the layers quantized before.

Search: both ends of the weight's exact range are shrunk by one factor t in (0, 1], then, on an asymmetric grid, the lower and the upper
end in turn. As in `mse`, coarse factors are followed by finer ones about the best. One scale a tensor: the sum over all rows decides.
The scale at the start is kept where nothing is better. A row with a scale for each group of entries is searched one group after the other,
while all other groups keep the scales they have by then. Deviation: the paper does not say how it searches.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar, final

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor

from halfstep.grid import Grid, quantize_affine
from halfstep.ranges.abstract import RANGES, AbstractRange, Range
from halfstep.ranges.distribution import Distribution
from halfstep.ranges.mse import MeanSquaredError

_SMALLEST = 2.0**-126  # a smaller scale has no inverse in float32


@final
@RANGES.register("output_mse")
class OutputMeanSquaredError(AbstractRange):
    """Least squared error of a layer's output (weights; for activations: as mse). num_candidates: factors tried in each pass."""

    refines_on_data: ClassVar[bool] = True

    num_candidates: int = Field(default=32, ge=8, le=10_000)

    def range(self, distribution: Distribution, grid: Grid) -> Range:
        """The start: the range of least squared error of the values themselves."""
        return MeanSquaredError(num_candidates=self.num_candidates).range(distribution, grid)

    def refine(
        self,
        rows: Float[Tensor, "G R d"],
        gram: Float[Tensor, "G d d"],
        target: Float[Tensor, "G R d"],
        grid: Grid,
        scale: Float[Tensor, "*shape"],
        zero_point: Float[Tensor, "*shape"],
    ) -> tuple[Tensor, Tensor]:
        """The scale (and zero point) of least output error, one for all rows or one each or one a group; never worse than the one given."""
        if grid.group_size is not None:
            return self._refine_groups(rows, gram, target, grid, scale, zero_point)
        is_shared = scale.numel() == 1
        if not is_shared and scale.numel() != rows.shape[0] * rows.shape[1]:
            raise ValueError(f"a scale for every row or one for all: {scale.numel()} scales for {rows.shape[0] * rows.shape[1]} rows")
        return self._refine(_Layer(rows.double(), gram.double(), target.double(), grid, is_shared), scale, zero_point)

    def _refine_groups(
        self, rows: Tensor, gram: Tensor, target: Tensor, grid: Grid, scale: Tensor, zero_point: Tensor
    ) -> tuple[Tensor, Tensor]:
        """One group of each row after the other: with e what the other groups miss, e H of the rest is a slope that the group meets."""
        assert grid.group_size is not None
        weight, exact, scale, zero_point = rows[0], target[0].double(), scale.clone(), zero_point.clone()
        quantized = quantize_affine(weight, scale, zero_point, grid).dequantize()
        for group in range(scale.shape[1]):
            span = slice(group * grid.group_size, (group + 1) * grid.group_size)
            missed = quantized.double() - exact
            missed[:, span] = 0
            slope = (missed @ gram[0].double()[:, span])[None]
            part, block = weight[None, :, span].double(), gram[:, span, span].double()
            layer = _Layer(part, block, exact[None, :, span], grid.per_channel(), False, slope)
            scale[:, group], zero_point[:, group] = self._refine(layer, scale[:, group], zero_point[:, group])
            own = scale[:, group], zero_point[:, group], layer.grid
            quantized[:, span] = quantize_affine(weight[:, span], *own).dequantize()
        return scale, zero_point

    def _refine(self, layer: _Layer, scale: Tensor, zero_point: Tensor) -> tuple[Tensor, Tensor]:
        grid = layer.grid
        flat = layer.rows.reshape(layer.num_scales, -1)
        low, high = flat.amin(1).double().clamp(max=0), flat.amax(1).double().clamp(min=0)
        best = self._search(layer, lambda t: Range(low * t, high * t))
        if not grid.symmetric:
            ends = best
            best = self._search(layer, lambda t: Range(low * t, ends.maximum))
            lower = best
            best = self._search(layer, lambda t: Range(lower.minimum, high * t))
        found, start = best.fit(grid), (scale.double().reshape(-1), zero_point.double().reshape(-1))
        is_better = layer.error(*found) < layer.error(*start)
        refined = [torch.where(is_better, new, old) for new, old in zip(found, start, strict=True)]
        return refined[0].reshape(scale.shape).to(scale.dtype), refined[1].reshape(zero_point.shape).to(zero_point.dtype)

    def _search(self, layer: _Layer, candidate: Callable[[Tensor], Range]) -> Range:
        """The best of the ranges that ``candidate`` makes of factors [C]; the larger of two that are equally good."""
        step = 1 / self.num_candidates
        coarse = torch.linspace(1, step, self.num_candidates, dtype=torch.float64, device=layer.rows.device)
        offsets = torch.linspace(step, -step, self.num_candidates + 1, dtype=torch.float64, device=layer.rows.device)
        best = self._best(layer, candidate, [factor.expand(layer.num_scales) for factor in coarse])
        best = self._best(layer, candidate, [(best + offset).clamp(step / 8, 1) for offset in offsets])
        return candidate(best)

    @staticmethod
    def _best(layer: _Layer, candidate: Callable[[Tensor], Range], factors: list[Tensor]) -> Float[Tensor, " C"]:
        errors = torch.stack([layer.error(*candidate(factor).fit(layer.grid)) for factor in factors])
        return torch.stack(factors).gather(0, errors.argmin(0, keepdim=True))[0]


class _Layer:
    """What the search asks of one layer: its output error as a function of scale and zero point.

    slope: of the error at the target, halved, where these are some of the columns and the others do not lie at their targets.
    """

    def __init__(self, rows: Tensor, gram: Tensor, target: Tensor, grid: Grid, is_shared: bool, slope: Tensor | None = None) -> None:
        self.rows, self.gram, self.target, self.grid, self.is_shared, self.slope = rows, gram, target, grid, is_shared, slope

    @property
    def num_scales(self) -> int:
        return 1 if self.is_shared else self.rows.shape[0] * self.rows.shape[1]

    def error(self, scale: Tensor, zero_point: Tensor) -> Float[Tensor, " C"]:
        """Of scales and zero points [C]: the error each of them is responsible for."""
        shape = (1, 1, 1) if self.is_shared else (*self.rows.shape[:2], 1)
        step, shift = scale.view(shape), zero_point.view(shape)
        inverse = torch.where(step > _SMALLEST, 1 / step, 0)
        integers = (self.rows * inverse).round().clamp(self.grid.minimum - shift, self.grid.maximum - shift)
        difference = integers * step - self.target
        towards = difference @ self.gram if self.slope is None else difference @ self.gram + 2 * self.slope
        found = (towards * difference).sum(-1)
        return found.sum().view(1) if self.is_shared else found.flatten()
