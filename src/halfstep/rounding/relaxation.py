"""Up or down as a number between 0 and 1 that gradients can move, and what drives it to one of them.

    h(V) = clip(σ(V / T) (ζ - γ) + γ, 0, 1)                    (23); T = 1 except with temperature annealing
    f_reg(V) = sum_ij  1 - |2 h(V_ij) - 1|^β                   (24)

V: one real number a weight. h: 0 is down, 1 is up. σ: the logistic function. ζ, γ: how far the sigmoid is stretched beyond [0, 1], so that
its gradient does not vanish near 0 and 1; ζ = 1, γ = 0 is the plain sigmoid. T: the temperature of Hopfield methods; lowering it drives h
to 0 or 1. β: high at first (h moves freely), low in the end (every h between 0 and 1 costs). Nagel et al. 2020, section 3.3 and Table 3. No
deviation; at h = 0 and h = 1 the clip passes no gradient.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

Schedule = Literal["cosine", "linear"]


@dataclass(frozen=True)
class Relaxation:
    """zeta, gamma: ζ and γ of the formula above."""

    zeta: float = 1.1
    gamma: float = -0.1

    def soft(self, V: Tensor, temperature: float = 1.0) -> tuple[Tensor, Tensor]:
        """h(V) and dh/dV, of the shape of ``V``."""
        sigmoid = torch.sigmoid(V if temperature == 1 else V / temperature)
        stretched = sigmoid * (self.zeta - self.gamma) + self.gamma
        slope = torch.addcmul(sigmoid, sigmoid, sigmoid, value=-1).mul_((self.zeta - self.gamma) / temperature)
        slope = torch.ops.aten.hardtanh_backward(slope, stretched, 0.0, 1.0)  # 0 outside the open interval, as the clip's gradient
        return stretched.clamp_(0, 1), slope

    def inverse(self, fraction: Tensor, temperature: float = 1.0) -> Tensor:
        """V with h(V) = ``fraction``, for fractions above 0 and below 1."""
        return torch.logit((fraction - self.gamma) / (self.zeta - self.gamma)) * temperature

    @property
    def bound(self) -> float:
        """h(V) is exactly 0 or 1 where |V| is at least this; infinite for the plain sigmoid."""
        if self.zeta <= 1 or self.gamma >= 0:
            return math.inf
        up = (1 - self.gamma) / (self.zeta - self.gamma)
        down = -self.gamma / (self.zeta - self.gamma)
        return max(math.log(up / (1 - up)), math.log((1 - down) / down))


def regularization(h: Tensor, beta: float) -> Tensor:
    """f_reg of (24); a scalar."""
    return (1 - (2 * h - 1).abs().pow(beta)).sum()


def regularization_slope(h: Tensor, beta: float) -> Tensor:
    """The slope of f_reg in h: df_reg / dh = -2 β |2h - 1|^(β-1) sign(2h - 1), of the shape of ``h``."""
    centred = h * 2 - 1
    power = centred.abs().log2_().mul_(beta - 1).exp2_()  # a power, at a third of the cost of pow
    return power.copysign_(centred).mul_(-2 * beta)


def annealed(schedule: Schedule, start: float, end: float, share: float) -> float:
    """From ``start`` (share 0) to ``end`` (share 1): in half a cosine wave or along a line."""
    left = (1 + math.cos(math.pi * share)) / 2 if schedule == "cosine" else 1 - share
    return end + (start - end) * left
