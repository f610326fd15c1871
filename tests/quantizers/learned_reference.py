"""The papers' slopes written out value by value, in float64, to hold the quantizers against."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from halfstep.quantizers import AbstractLearnedQuantizer


def lsq_slopes(x: Tensor, scale: float, low: int, high: int) -> tuple[Tensor, Tensor, Tensor]:
    """(x̂, dx̂/dx, dx̂/ds) by equations 1 to 3 of Esser et al. 2020; ``low`` and ``high`` are -Q_N and Q_P."""
    values, in_x, in_s = [], [], []
    for v in (x.double() / scale).flatten().tolist():
        if v <= low or v >= high:
            edge = low if v <= low else high
            values.append(edge * scale)
            in_x.append(0.0)
            in_s.append(float(edge))
        else:
            nearest = float(round(v))  # half to even, as torch
            values.append(nearest * scale)
            in_x.append(1.0)
            in_s.append(nearest - v)
    return tuple(torch.tensor(found, dtype=torch.float64).view(x.shape) for found in (values, in_x, in_s))  # type: ignore[return-value]


def gradients(quantizer: AbstractLearnedQuantizer, x: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    """(the quantizer's output, the gradient in x) of the sum of ``weights`` times the output; parameters keep theirs."""
    x = x.clone().requires_grad_()
    quantizer.zero_grad()
    output = quantizer(x)
    (output * weights).sum().backward()
    assert x.grad is not None
    return output.detach(), x.grad


def lsq_gradient_scale(num_values: int, high: int) -> float:
    """G of section 2.2."""
    return 1 / math.sqrt(num_values * high)
