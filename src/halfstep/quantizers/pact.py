"""PACT: activations are clipped at a learned point; only what is clipped moves it.

    x̂ = s round(clip(x, 0, a) / s),   s = a / p        dx̂/dx = 1 inside, 0 beyond        dx̂/da = 0 inside, 1 beyond

a: clipping point, p: highest code counted from the zero point. Choi et al. 2018, "PACT: parameterized clipping activation for quantized
neural networks", equations 1 to 3. Started as in the paper, a = ``clip``.

Deviations: there is no penalty on a. The parameter is ln a (`learned.py`). Where the grid has codes below 0 there is a lower clipping point
too, n s, moved by the same parameter: on a weight's grid it is -a or, with one code more, -a (p + 1) / p.
"""

from __future__ import annotations

from typing import Annotated, final

import torch
from pydantic import Field
from torch import Tensor

from halfstep.grid import Grid, Quantized, quantize_affine
from halfstep.quantizers.abstract import QUANTIZERS
from halfstep.quantizers.learned import AbstractLearnedQuantizer, Positive
from halfstep.quantizers.learned_step import on_grid, with_gradient_times


@final
@QUANTIZERS.register("pact")
class PactQuantizer(AbstractLearnedQuantizer):
    """Learned clipping point. clip: where it starts, if not where calibration put it."""

    zero_point: Tensor

    def __init__(
        self,
        grid: Grid,
        num_channels: int | None = None,
        num_groups: int | None = None,
        is_weight: bool = False,
        *,
        clip: Annotated[float, Field(gt=0)] = 8.0,
    ) -> None:
        super().__init__(grid, num_channels, num_groups, is_weight)
        self.clip = clip
        self.clipping_point = Positive(self.shape())
        self.register_buffer("zero_point", torch.zeros(self.shape()))

    @property
    def is_calibrated(self) -> bool:
        """True once a clipping point was set."""
        return self.clipping_point.is_set

    @property
    def highest(self) -> Tensor:
        """p, at least 1."""
        return (self.grid.maximum - self.zero_point).clamp(min=1)

    @property
    def scale(self) -> Tensor:
        """S = a / p."""
        return self.clipping_point.value / self.highest

    def set(self, scale: Tensor, zero_point: Tensor) -> None:
        """Start from this grid and switch the quantizer on."""
        self.zero_point.copy_(zero_point)
        self.clipping_point.set(scale.to(self.zero_point) * self.highest)
        self.is_enabled = True

    def start(self, x: Tensor) -> None:
        """A = ``clip``, whatever the values are."""
        self.clipping_point.set(torch.full(self.shape(), self.clip))

    def quantize(self, x: Tensor) -> Quantized:
        """``x`` on the grid."""
        return quantize_affine(x, self.scale, self.zero_point, self.grid)

    def simulate(self, x: Tensor) -> Tensor:
        """The same values in one pass, with the gradients above."""
        return learned_clip(self, x, self.clipping_point, self.highest, self.zero_point, has_error=False)


def learned_clip(
    quantizer: AbstractLearnedQuantizer, x: Tensor, clipping_point: Positive, highest: Tensor, zero_point: Tensor, has_error: bool
) -> Tensor:
    """x̂ on the grid that ends at ``clipping_point``; ``has_error``: its slope inside is round(v) / p - v / p (CG-PACT) instead of 0."""
    value = clipping_point.value
    parameter = with_gradient_times(clipping_point.logarithm, 1 / (value * highest))  # ds = da / p
    return on_grid(x, value / highest, zero_point, quantizer.grid, parameter, slope="step" if has_error else "clip")
