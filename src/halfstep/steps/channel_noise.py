"""What the rounding of activations and weights will do to the network's outputs, as a function of the factors of its channels.

    noise(s) = sum over tensors T   d_T² / 12  sum over channels i    h_Ti / s_i²                            d_T = range(T, s) / (n - 1)
             + sum over rows r      d_r² / 12  sum over entries i     h_ri s_i² / s_r²                       d_r = range(r, s) / (n - 1)

s_i: the factor of channel i: its values are multiplied by it, the weights that read it divided. d: the step of a grid of n codes, over
values of which each is off by an even d / sqrt(12) after rounding; counted in the values as they were, an error of channel i is smaller by
s_i. range: from the lowest to the highest value of the scaled tensor; of a row of weights w_ri s_r / s_i twice the largest magnitude. With
one scale for a whole weight tensor all rows have one range. h: how strongly the outputs feel it, `graph/output_slopes`.

Extremes are softened to a norm, (sum |x_i|^p)^(1/p), p = 16, so that all large channels feel their slope, not the largest alone.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from halfstep.grid import Grid

_NORM = 16
_LEAST = 1e-6  # of a tensor's extremes: smaller ones do not matter, and have a logarithm


@dataclass(frozen=True)
class TensorNoise:
    """One grid over one or several tensors. numbers, minimum, maximum, slopes [C]: of all their channels."""

    grid: Grid
    numbers: Tensor
    minimum: Tensor
    maximum: Tensor
    slopes: Tensor

    def function(self) -> Callable[[Tensor], Tensor]:
        """The noise, of the logarithms of all factors."""
        top = torch.maximum(self.maximum, -self.minimum).max().clamp(min=torch.finfo(torch.float64).tiny)
        low, high = ((side.clamp(min=_LEAST * top)).log() for side in (-self.minimum, self.maximum))
        share = 1 / (12 * (self.grid.num_levels - 1) ** 2)

        def noise(logarithms: Tensor) -> Tensor:
            own = logarithms.index_select(0, self.numbers)
            ends = [_soft_maximum(own + side).exp() for side in (low, high)]
            extent = 2 * torch.maximum(*ends) if self.grid.symmetric else ends[0] + ends[1]
            return share * extent.square() * (self.slopes * (-2 * own).exp()).sum()

        return noise


@dataclass(frozen=True)
class WeightNoise:
    """The weights of one layer. largest, slopes [G, R, I]: of each pair of channels. inputs [G I], outputs [G R]: their numbers.

    inputs is None where the factors of what the layer reads are 1.
    """

    grid: Grid
    largest: Tensor
    slopes: Tensor
    inputs: Tensor | None
    outputs: Tensor

    @property
    def is_constant(self) -> bool:
        """Whether no factor matters: with a range of its own a row may be scaled as a whole, and zeros are never rounded."""
        has_own_ranges = self.grid.channel_axis is not None and (self.inputs is None or self.largest.shape[2] == 1)
        return has_own_ranges or not bool(self.largest.any())

    def function(self) -> Callable[[Tensor], Tensor]:
        """The noise, of the logarithms of all factors."""
        groups, rows, num_inputs = self.largest.shape
        share = 4 / (12 * (self.grid.num_levels - 1) ** 2)
        largest, slopes = self.largest.float(), self.slopes.float()  # millions of them, and only their sums matter

        def noise(logarithms: Tensor) -> Tensor:
            given = (
                torch.zeros(groups, 1, num_inputs) if self.inputs is None else logarithms.index_select(0, self.inputs).view(groups, 1, -1)
            )
            given = given.float()
            sums = torch.matmul(slopes, (2 * given).exp().transpose(1, 2))[..., 0]
            extremes = (largest * (-given).exp()).amax(2)
            if self.grid.channel_axis is not None:
                return share * (extremes.square() * sums).sum(dtype=torch.float64)
            written = logarithms.index_select(0, self.outputs).view(groups, rows)
            extent = _soft_maximum((extremes.double().clamp(min=_LEAST * float(largest.max())).log() + written).flatten()).exp()
            return share * extent.square() * (sums * (-2 * written).exp()).sum()

        return noise


def _soft_maximum(logarithms: Tensor) -> Tensor:
    return (_NORM * logarithms).logsumexp(0) / _NORM


def quietest_factors(
    terms: Sequence[TensorNoise | WeightNoise], highest: Tensor, is_fixed: Tensor, num_iterations: int, rate: float
) -> tuple[Tensor, float, float]:
    """(the logarithms of the factors, the noise with all factors 1, the noise with these).

    highest: of each logarithm, 0 or more. is_fixed: which of them stay 0. Adam from factors of 1, its rate falling to 0.
    """
    functions = [term.function() for term in terms]
    found = torch.zeros(len(highest), dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.Adam([found], lr=rate, betas=(0.9, 0.99))
    losses = []
    with torch.enable_grad():
        for iteration in range(num_iterations + 1):
            noise = torch.stack([function(found) for function in functions]).sum()
            losses.append(float(noise.detach()))
            if iteration == num_iterations or losses[-1] == 0:
                break
            optimizer.param_groups[0]["lr"] = rate * (1 - iteration / num_iterations)
            (found.grad,) = torch.autograd.grad(noise.log(), [found])
            found.grad[is_fixed] = 0
            optimizer.step()
            with torch.no_grad():
                found.copy_(torch.minimum(found, highest))
    return found.detach(), losses[0], losses[-1]
