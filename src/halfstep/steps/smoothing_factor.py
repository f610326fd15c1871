"""How much of each input channel of linear layers goes from the activation to the weights.

    s_j = max|X_j|^alpha / max|W_j|^(1 - alpha)                    Xiao et al. 2023, (4)

X_j: input channel j over the calibration data. W_j: the weights of all layers that meet it. Which alpha is best differs from tensor to
tensor: a channel that is large in X and in W is still large behind s, and all others are then finer only in the weights. `least_error`
tries 0, 1/20 ... 1, and s = 1, which leaves the layers alone, and takes what the layers' outputs are expected to lose least by:

    J(s) = step(X / s)^2 / 12  sum_ij (s_j W_ij)^2  +  sum_ij (round(s_j W_ij) - s_j W_ij)^2 E[X_j^2] / s_j^2

step: of the activation's grid from its least to its largest value; an error of rounding is as large as a step over sqrt(12), and is
independent of all others: the usual model (Widrow 1956). round: to nearest on the weights' grids, likewise from least to largest. What a
tensor in float loses is 0.
Deviation from the paper: it sets one alpha by hand for a whole network.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from halfstep.grid import Grid, quantize_affine
from halfstep.ranges import Range

LEAST_ERROR: Literal["least_error"] = "least_error"
_NUM_ALPHAS = 21


@dataclass(frozen=True)
class Channels:
    """What is known of each channel of an activation over the calibration data, float64 [C]: its extremes and its mean square."""

    minimum: Float[Tensor, " C"]
    maximum: Float[Tensor, " C"]
    mean_square: Float[Tensor, " C"]

    @property
    def largest(self) -> Float[Tensor, " C"]:
        """max|X_j|."""
        return torch.maximum(self.maximum, -self.minimum)


def factor_at(alpha: float, channels: Channels, weights: list[Tensor]) -> Float[Tensor, " C"]:
    """The s of equation (4), float64; 1 where a channel is always 0 or no weight meets it. weights: float64 [C_out, C], of all layers."""
    meeting = torch.stack([weight.abs().amax(0) for weight in weights]).amax(0)
    is_free = (channels.largest > 0) & (meeting > 0)
    return torch.where(is_free, channels.largest**alpha / torch.where(is_free, meeting, 1) ** (1 - alpha), 1.0)


def factor_of_least_error(channels: Channels, weights: list[Tensor], grids: list[Grid | None], grid: Grid | None) -> Float[Tensor, " C"]:
    """The s of least J. grids: of the weights; grid: of the activation; None: in float."""
    alphas = torch.linspace(0, 1, _NUM_ALPHAS, dtype=torch.float64).tolist()
    candidates = [torch.ones_like(channels.largest), *(factor_at(alpha, channels, weights) for alpha in alphas)]
    errors = [expected_error(factor, channels, weights, grids, grid) for factor in candidates]
    return candidates[errors.index(min(errors))]


def expected_error(factor: Tensor, channels: Channels, weights: list[Tensor], grids: list[Grid | None], grid: Grid | None) -> float:
    """J(s), the expected squared error of all outputs of all layers."""
    activation = torch.stack([channels.minimum / factor, channels.maximum / factor])
    noise = 0.0 if grid is None else float(_grid_over(activation, grid)[0]) ** 2 / 12
    total = 0.0
    for weight, weight_grid in zip(weights, grids, strict=True):
        scaled = weight * factor
        total += noise * float(scaled.square().sum())
        if weight_grid is not None:
            error = quantize_affine(scaled, *_grid_over(scaled, weight_grid), weight_grid).dequantize() - scaled
            total += float((error.square() @ (channels.mean_square / factor.square())).sum())
    return total


def _grid_over(values: Float[Tensor, "R C"], grid: Grid) -> tuple[Tensor, Tensor]:
    """(scale, zero point) of the grid over all of the values: [], [R] or [R, num_groups]."""
    if grid.channel_axis is None:
        rows = values.reshape(1, -1)
    elif grid.group_size is None:
        rows = values
    else:
        missing = -values.shape[1] % grid.group_size
        rows = torch.nn.functional.pad(values[None], (0, missing), mode="replicate").view(-1, grid.group_size)
    low, high = rows.aminmax(dim=1)
    scale, zero_point = Range(low.clamp(max=0), high.clamp(min=0)).fit(grid)
    shape = grid.scale_shape(values.shape)
    return torch.where(scale > 0, scale, 1).view(shape), zero_point.view(shape)
