"""Rounding as a quadratic unconstrained binary optimization (QUBO): up or down for each weight, with the cost in every pair of them.

    min over b in {0, 1}^n of  (e + u b)ᵀ H (e + u b),      e = s floor(w / s) - t,   u = s (ceil(w / s) - floor(w / s))

w: the weights; floor and ceil of them are clipped to the grid, so that u = 0 where there is nothing to choose. s: scale. t: the aim, w
itself unless the local error is taken against the float network's output. u b is taken entry by entry. H, by ``objective``:

    task    the second derivative of the task loss in all weights of the layer: one problem of n = weight.numel()  (13)
    local   E[x xᵀ] of the layer's input: one problem of n = d for each row, with H in common                      (20)

Multiplied out, with b_i^2 = b_i, the cost is bᵀ Q b + c with Q = diag(u) H diag(u) + diag(2 u (H e)) and c = eᵀ H e.

Nagel et al. 2020, "Up or down? Adaptive rounding for post-training quantization", equations (9), (10), (13), (20) and appendix B. The
factor 1/2 of the Taylor expansion is left out. No deviation.
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Bool, Float
from pydantic import Field
from torch import Tensor

from halfstep.grid import Quantized
from halfstep.rounding.abstract import AbstractRounding, RoundingProblem


@dataclass(frozen=True)
class Qubo:
    """R problems of n choices in each of G groups; those of a group have H in common. All float64 and on one device.

    gram: H. offset: e. width: u. fraction: w / s - floor(w / s), the probability to go up of stochastic rounding; 0 where u is 0.
    """

    gram: Float[Tensor, "G n n"]
    offset: Float[Tensor, "G R n"]
    width: Float[Tensor, "G R n"]
    fraction: Float[Tensor, "G R n"]

    def cost(self, choices: Bool[Tensor, "G R n"]) -> Float[Tensor, "G R"]:
        """The value of each problem at one point, without cancellation: nothing is multiplied out."""
        error = self.offset + self.width * choices
        return ((error @ self.gram) * error).sum(-1)

    def nearest(self) -> Bool[Tensor, "G R n"]:
        """The choice that changes each weight least; half goes down."""
        return self.fraction > 0.5

    def matrix(self, group: int, row: int) -> tuple[Float[Tensor, "n n"], float]:
        """Q and c of one problem: its cost is bᵀ Q b + c."""
        gram, offset, width = self.gram[group], self.offset[group, row], self.width[group, row]
        field = gram @ offset
        return width[:, None] * gram * width + torch.diag(2 * width * field), float(offset @ field)


class AbstractQubo(AbstractRounding):
    """What the solvers have in common: the problem and its options.

    objective: ``local`` for the error of the layer's output, ``task`` for the task loss to second order. asymmetric, centred, damping: of
    the local error, as in `RoundingProblem.quadratic`; the paper's (20) is symmetric and leaves the bias alone.
    """

    objective: Literal["local", "task"] = "local"
    asymmetric: bool = False
    centred: bool = False
    damping: float = Field(default=0.0, ge=0)

    @property
    def uses_moments(self) -> bool:
        """For the local error."""
        return self.objective == "local"

    @property
    def uses_curvature(self) -> bool:
        """For the task loss."""
        return self.objective == "task"

    @property
    def has_independent_rows(self) -> bool:
        """The task loss couples the rows."""
        return self.objective == "local"

    @property
    def frees_bias(self) -> bool:
        """Where moments are taken about the means."""
        return self.objective == "local" and self.centred

    @abstractmethod
    def solve(self, qubo: Qubo, problem: RoundingProblem, generator: torch.Generator) -> Bool[Tensor, "G R n"]:
        """Good choices: True for up. ``problem`` gives the rows' place in the layer and takes the progress."""

    def round(self, problem: RoundingProblem, generator: torch.Generator) -> Quantized:
        """The code below or above each weight. Raises `ValueError` where the problem lacks moments (local) or curvature (task)."""
        low, high = problem.limits()
        position = problem.position()
        below, above = torch.floor(position).clamp(low, high), torch.ceil(position).clamp(low, high)
        choices = self.solve(self._qubo(problem, below, above), problem, generator)
        flat = choices.to(position.dtype)
        up = problem.from_rows(flat) if self.objective == "local" else flat.reshape(position.shape)
        return problem.codes(below + (above - below) * up)

    def _qubo(self, problem: RoundingProblem, below: Tensor, above: Tensor) -> Qubo:
        """The problem in float64, whose steps are exactly those of the codes."""
        weight, step = problem.weight.double(), problem.step().double()
        can_move = above > below
        fraction = torch.where(can_move, problem.position().double() - below, 0.0)
        if self.objective == "local":
            quadratic = problem.quadratic(self.asymmetric, self.centred, self.damping)
            gram, aim, rows = quadratic.gram, quadratic.target, problem.rows
        else:
            gram, aim, rows = _curvature(problem), weight.reshape(1, 1, -1), _as_one_row
        return Qubo(gram, rows(below * step) - aim, rows((above - below) * step), rows(fraction))


def _curvature(problem: RoundingProblem) -> Tensor:
    if problem.curvature is None:
        raise ValueError("the objective 'task' needs the second derivative of the task loss: give the problem a curvature")
    return problem.curvature().to(problem.weight.device, torch.float64)[None]


def _as_one_row(tensor: Tensor) -> Tensor:
    return tensor.reshape(1, 1, -1)
