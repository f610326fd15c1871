"""AdaRound: learn for each weight whether it is rounded up or down, by gradient descent on the layer's output.

    min over V of   || f_a(W x) - f_a(W̃ x̂) ||²_F + λ f_reg(V)                          (25)
    W̃ = s clip(floor(W / s) + h(V), n, p)                                              (22)
    h(V) = clip(σ(V) (ζ - γ) + γ, 0, 1)                                                (23)
    f_reg(V) = sum_ij  1 - |2 h(V_ij) - 1|^β                                           (24)

W: the weight. s: its scale. n, p: the limits of the grid. x: what the layer receives in the float network, x̂: behind the layers that are
already quantized. f_a: the activation function behind the layer. V starts where W̃ = W. In the end a weight goes up where h(V) >= 1/2.
Nagel et al. 2020, "Up or down? Adaptive rounding for post-training quantization", section 3.3. The paper leaves open what follows: the loss
is summed over channels and averaged over samples and positions; λ = 0.01; no f_reg in the first fifth; β from 20 to 2.

Without an activation function (`with_activation: false`) and with x in place of x̂ (`is_asymmetric: false`) the loss is (21). Table 3:
`relaxation: sigmoid` (ζ = 1, γ = 0) and `relaxation: temperature` (h = σ(V / T), T lowered instead of f_reg).

Deviations. Adam moves an entry of V by about its learning rate a step: with the paper's 0.001 a thousand steps cannot carry a V of 2 to the
other side. Fewer than 10,000 iterations therefore take a larger one by default, 10 / iterations and at most 0.05. A weight that lies on the
grid, or whose neighbours are not both on it, has nothing to decide and stays (equations 9 and 10 have one candidate there). The descent
ends early when every h is 0 or 1 and Adam's momentum cannot bring one back: all gradients are 0 from then on, so that the result is that of
all iterations.
"""

from __future__ import annotations

from typing import ClassVar, Literal, final

import torch
from pydantic import Field
from torch import Tensor

from halfstep.grid import Quantized
from halfstep.rounding.abstract import ROUNDINGS, AbstractRounding, RoundingProblem
from halfstep.rounding.descent import Adam, learning, minibatches
from halfstep.rounding.layer_loss import layer_loss
from halfstep.rounding.relaxation import Relaxation, Schedule, annealed, regularization_slope

_REPORT_EVERY = 100  # iterations between two calls of `progress`, and between two looks at whether all is decided


@final
@ROUNDINGS.register("adaround")
class AdaRound(AbstractRounding):
    """Learned rounding (Nagel et al. 2020).

    num_iterations, batch_size: of Adam. learning_rate: of Adam; None: 0.001 as in the paper, and more in fewer than 10,000 iterations, see
    above. regularization: λ. warm_up: share of the iterations without f_reg (at the first
    temperature). beta_start, beta_end, schedule: how β is annealed. relaxation: what h is, see above. zeta, gamma: of the rectified
    sigmoid. temperature_start, temperature_end: T, annealed by the same schedule. is_asymmetric: whether the layer's input is the one
    behind the quantized layers. with_activation: whether the activation function is in the loss. num_positions: output positions drawn of
    each sample at each step; None takes all.
    """

    num_iterations: int = Field(default=10_000, ge=1)
    batch_size: int = Field(default=32, ge=1)
    learning_rate: float | None = Field(default=None, gt=0)
    regularization: float = Field(default=0.01, ge=0)
    warm_up: float = Field(default=0.2, ge=0, lt=1)
    beta_start: float = Field(default=20.0, gt=1)
    beta_end: float = Field(default=2.0, gt=1)
    schedule: Schedule = "cosine"
    relaxation: Literal["rectified_sigmoid", "sigmoid", "temperature"] = "rectified_sigmoid"
    zeta: float = Field(default=1.1, gt=1)
    gamma: float = Field(default=-0.1, lt=0)
    temperature_start: float = Field(default=1.0, gt=0)
    temperature_end: float = Field(default=0.01, gt=0)
    is_asymmetric: bool = True
    with_activation: bool = True
    num_positions: int | None = Field(default=None, ge=1)

    uses_samples: ClassVar[bool] = True
    has_independent_rows: ClassVar[bool] = True

    @property
    def rate(self) -> float:
        """The learning rate: the given one, or the one with which V gets as far as in the paper's 10,000 iterations of 0.001."""
        return self.learning_rate or min(0.05, max(1e-3, 10 / self.num_iterations))

    def round(self, problem: RoundingProblem, generator: torch.Generator) -> Quantized:
        """One code for each weight: the one below it or the one above."""
        below, V = self.start(problem)
        if bool(torch.isfinite(V).any()):
            with learning():
                V = self._minimize(problem, below, V, generator)
        return problem.codes(below + (V >= 0))

    def start(self, problem: RoundingProblem) -> tuple[Tensor, Tensor]:
        """The integers below the weights, counted from the zero point, and V with W̃ = W; -inf where there is nothing to decide."""
        position, (low, high) = problem.position(), problem.limits()
        below = torch.floor(position)
        fraction = position - below
        is_open = (fraction > 0) & (below >= low) & (below < high)
        V = self._relaxation().inverse(torch.where(is_open, fraction, 0.5), self._temperature(0))
        return torch.minimum(torch.maximum(below, low), high), V.where(is_open, -torch.inf)

    def _minimize(self, problem: RoundingProblem, below: Tensor, V: Tensor, generator: torch.Generator) -> Tensor:
        choice = {"is_asymmetric": self.is_asymmetric, "with_activation": self.with_activation}
        loss = layer_loss(problem, generator, **choice, num_positions=self.num_positions)
        V, step, base = (loss.laid_out(tensor) for tensor in (V.clone(), problem.step(), below * problem.step()))
        sizes = (self.batch_size, self.num_iterations)
        relaxation, adam = self._relaxation(), Adam(V, self.rate)
        for index, chosen in enumerate(minibatches(loss.num_samples, *sizes, generator, problem.weight.device)):
            if index % _REPORT_EVERY == 0:
                problem.progress(index / self.num_iterations)
                if _is_decided(V, adam, relaxation):
                    break
            h, slope = relaxation.soft(V, self._temperature(index))
            gradient = loss.gradient(torch.addcmul(base, h, step), chosen).mul_(step)
            if self._has_regularization(index):
                gradient.add_(regularization_slope(h, self._beta(index)), alpha=self.regularization)
            adam.descend(gradient.mul_(slope))
        return loss.as_weight(V)

    def _relaxation(self) -> Relaxation:
        return Relaxation(self.zeta, self.gamma) if self.relaxation == "rectified_sigmoid" else Relaxation(1.0, 0.0)

    def _has_regularization(self, index: int) -> bool:
        return self.relaxation != "temperature" and index >= self.warm_up * self.num_iterations

    def _beta(self, index: int) -> float:
        return annealed(self.schedule, self.beta_start, self.beta_end, self._share(index))

    def _temperature(self, index: int) -> float:
        if self.relaxation != "temperature":
            return 1.0
        return annealed(self.schedule, self.temperature_start, self.temperature_end, self._share(index))

    def _share(self, index: int) -> float:
        """How much of the annealing is over at an iteration, 0 to 1."""
        first = self.warm_up * self.num_iterations
        return max(0.0, (index - first) / (self.num_iterations - first))


def _is_decided(V: Tensor, adam: Adam, relaxation: Relaxation) -> bool:
    """Whether every h is 0 or 1 and stays so: no gradient is left, and the momentum does not carry V back across the bound."""
    if not bool((V.abs() >= relaxation.bound).all()):
        return False
    return bool(((V + adam.reach()).abs() >= relaxation.bound).all())
