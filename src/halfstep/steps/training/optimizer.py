"""The optimizers of a training run, their groups of parameters and the schedule.

    rate(t) = base t / (u T)                                          for t < u T
              base (1 + cos(pi (t / T - u) / (1 - u))) / 2             after

t of T: steps, counted from 0 (t + 1 while warming up), u: share of warm-up. Loshchilov and Hutter 2017, "SGDR", equation 5, without
restarts.

What quantizers learn and the gains of batch norms always go by Adam (Kingma and Ba 2015), whose steps do not depend on the size of a
gradient: that of a scale changes by orders of magnitude with the number of bits, and what suits 2 bits throws 8-bit scales out of any
range. Nearly all of them are logarithms, so that their learning rate is relative: 0.001 is a tenth of a percent a step.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import nn

from halfstep.steps.training.trainable import Trainable

OptimizerKind = Literal["sgd", "adamw"]
_MOMENTUM = 0.9


@dataclass(frozen=True)
class Rates:
    """kind, learning_rate: of weights, biases and shifts. scale_learning_rate: of what quantizers learn and gains. weight_decay: of
    weights alone. warm_up: u.
    """

    kind: OptimizerKind
    learning_rate: float
    scale_learning_rate: float
    weight_decay: float
    warm_up: float


def make_optimizers(model: Trainable, rates: Rates) -> list[torch.optim.Optimizer]:
    """One for weights (at least two axes), biases and shifts, and one for what quantizers learn and the gains of batch norms."""
    learned = model.scale_parameters()
    by_adam = {id(p) for p in learned}
    own = [p for p in model.parameters() if id(p) not in by_adam]
    weights, others = [p for p in own if p.ndim > 1], [p for p in own if p.ndim <= 1]
    groups = [_group(weights, rates.learning_rate, rates.weight_decay), _group(others, rates.learning_rate, 0.0)]
    groups = [group for group in groups if group["params"]]
    made: list[torch.optim.Optimizer] = []
    if groups:
        is_sgd = rates.kind == "sgd"
        made.append(torch.optim.SGD(groups, momentum=_MOMENTUM, nesterov=True) if is_sgd else torch.optim.AdamW(groups))
    return [*made, torch.optim.Adam([_group(learned, rates.scale_learning_rate, 0.0)])] if learned else made


def _group(parameters: list[nn.Parameter], rate: float, decay: float) -> dict[str, Any]:
    """``base`` is what the schedule multiplies."""
    return {"params": parameters, "lr": rate, "base": rate, "weight_decay": decay}


def set_rates(optimizers: list[torch.optim.Optimizer], step: int, num_steps: int, warm_up: float) -> None:
    """The rates of step ``step`` of ``num_steps``."""
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["lr"] = group["base"] * factor(step, num_steps, warm_up)


def factor(step: int, num_steps: int, warm_up: float) -> float:
    """Rate / base."""
    done = step / num_steps
    if done < warm_up:
        return (step + 1) / math.ceil(warm_up * num_steps)
    return (1 + math.cos(math.pi * (done - warm_up) / (1 - warm_up))) / 2
