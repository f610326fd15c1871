"""A batch norm behind a layer for the time of training, to be folded into the layer's scales again.

    y = a (z - E[z]) / sqrt(VAR[z] + eps) + b          a > 0

z: the layer's output without a bias, over one batch while training and over running estimates otherwise. a, b: learned, [C]. Ioffe and
Szegedy 2015, "Batch normalization", algorithm 1. Deviations: the parameter is ln a (`quantizers/learned.py`), because a factor that
changes its sign would turn the codes of a channel round, and the lowest code has no opposite. Several processes take mean and variance
over their batches together, so that they train what one process with all the samples would.
"""

from __future__ import annotations

from typing import final

import torch
import torch.distributed
import torch.distributed.nn.functional
from torch import Tensor, nn
from torch.nn import functional as F

from halfstep import parallel
from halfstep.quantizers.learned import Positive

_EPSILON = 1e-5
_MOMENTUM = 0.1
_CONSTANT = 1e-12  # a variance that is rounding error


@final
class LiveNorm(nn.Module):
    """Normalizes axis 1. momentum: of the running estimates; None while they are taken anew: the mean over all batches."""

    mean: Tensor
    variance: Tensor

    def __init__(self, gain: Tensor, shift: Tensor) -> None:
        super().__init__()
        self.gain = Positive(tuple(gain.shape))
        self.gain.set(gain)
        self.shift = nn.Parameter(shift.clone())
        self.register_buffer("mean", torch.zeros_like(shift))
        self.register_buffer("variance", torch.ones_like(shift))
        self.momentum: float | None = _MOMENTUM
        self.num_batches = 0

    def forward(self, z: Tensor) -> Tensor:
        """Y."""
        gain = self.gain.unit * self.gain.logarithm.exp()
        if not self.training:
            return F.batch_norm(z, self.mean, self.variance, gain, self.shift, False, 0.0, _EPSILON)
        self.num_batches += 1
        momentum = 1 / self.num_batches if self.momentum is None else self.momentum
        if parallel.num_processes() > 1:
            return self._over_processes(z, gain, momentum)
        return F.batch_norm(z, self.mean, self.variance, gain, self.shift, True, momentum, _EPSILON)

    def affine(self) -> tuple[Tensor, Tensor]:
        """(f, h) in float64 with y = f z + h, from the running estimates."""
        factor = self.gain.value.double() * torch.rsqrt(self.variance.double() + _EPSILON)
        return factor, self.shift.detach().double() - self.mean.double() * factor

    def forget(self) -> None:
        """Take the running estimates anew: the mean over all batches from here on."""
        self.num_batches, self.momentum = 0, None

    def restore(self) -> None:
        """Estimates that follow the batches again, as in training. A channel that did not vary counts as one of variance 1, lest what it
        hides be blown up: its factor would be gain / sqrt(eps).
        """
        self.momentum = _MOMENTUM
        self.variance.masked_fill_(self.variance <= _CONSTANT, 1)

    def _over_processes(self, z: Tensor, gain: Tensor, momentum: float) -> Tensor:
        """The same with mean and variance over the batches of all processes; gradients go through them."""
        axes = [axis for axis in range(z.ndim) if axis != 1]
        count = z.numel() // z.shape[1] * parallel.num_processes()
        mean = _total(z.sum(axes)) / count
        shape = [1, -1] + [1] * (z.ndim - 2)
        centred = z - mean.view(shape)
        variance = _total(centred.square().sum(axes)) / count
        with torch.no_grad():
            self.mean.lerp_(mean, momentum)
            self.variance.lerp_(variance * (count / max(count - 1, 1)), momentum)
        return centred * (gain * torch.rsqrt(variance + _EPSILON)).view(shape) + self.shift.view(shape)


def _total(x: Tensor) -> Tensor:
    """The sum over processes, with its gradient."""
    found: Tensor = torch.distributed.nn.functional.all_reduce(x)
    return found
