"""Straight-through optimization: the weights themselves are learned, as if rounding had the gradient 1.

    min over U of   || f_a(W x) - f_a(W̃ x̂) ||²_F,    W̃ = s clip(round(U), n, p),    dL/dU := dL/dW̃ s  inside the limits, 0 beyond

W: the weight. U: a real number for each weight, W / s at first; it may move by any number of codes. s: the scale. n, p: the limits of the
grid. x, x̂, f_a: as for AdaRound. Bengio et al. 2013, "Estimating or propagating gradients through stochastic neurons", as compared in Nagel
et al. 2020, Table 5. Deviation: the paper optimizes (21) this way; here x̂ and f_a are in the loss unless switched off, so that it differs
from `adaround` in the rounding alone.
"""

from __future__ import annotations

from typing import ClassVar, final

import torch
from pydantic import Field
from torch import Tensor

from halfstep.grid import Quantized
from halfstep.rounding.abstract import ROUNDINGS, AbstractRounding, RoundingProblem
from halfstep.rounding.descent import Adam, learning, minibatches
from halfstep.rounding.layer_loss import layer_loss

_REPORT_EVERY = 100  # iterations between two calls of `progress`


@final
@ROUNDINGS.register("ste")
class StraightThrough(AbstractRounding):
    """Straight-through optimization of the weights (Nagel et al. 2020, Table 5).

    num_iterations, batch_size: of Adam. learning_rate: in steps of the grid. is_asymmetric: whether the layer's input is the one behind the
    quantized layers. with_activation: whether the activation function is in the loss. num_positions: output positions drawn of each sample
    at each step; None takes all.
    """

    num_iterations: int = Field(default=10_000, ge=1)
    batch_size: int = Field(default=32, ge=1)
    learning_rate: float = Field(default=1e-3, gt=0)
    is_asymmetric: bool = True
    with_activation: bool = True
    num_positions: int | None = Field(default=None, ge=1)

    uses_samples: ClassVar[bool] = True
    has_independent_rows: ClassVar[bool] = True

    def round(self, problem: RoundingProblem, generator: torch.Generator) -> Quantized:
        """One code for each weight, any number of steps from it."""
        with learning():
            return problem.codes(torch.round(self._minimize(problem, generator)))

    def _minimize(self, problem: RoundingProblem, generator: torch.Generator) -> Tensor:
        choice = {"is_asymmetric": self.is_asymmetric, "with_activation": self.with_activation}
        loss = layer_loss(problem, generator, **choice, num_positions=self.num_positions)
        U, step, low, high = (loss.laid_out(tensor) for tensor in (problem.position().clone(), problem.step(), *problem.limits()))
        adam, sizes = Adam(U, self.learning_rate), (self.batch_size, self.num_iterations)
        for index, chosen in enumerate(minibatches(loss.num_samples, *sizes, generator, problem.weight.device)):
            if index % _REPORT_EVERY == 0:
                problem.progress(index / self.num_iterations)
            rounded = torch.round(U)
            inside = torch.minimum(torch.maximum(rounded, low), high)
            gradient = loss.gradient(inside * step, chosen)
            adam.descend(gradient.mul_(step).mul_(inside == rounded))
        return loss.as_weight(U)
