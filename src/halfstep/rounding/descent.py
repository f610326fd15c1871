"""What everything that learns by gradients shares: minibatches in a new order every epoch, and Adam written out.

    m <- β1 m + (1 - β1) g        v <- β2 v + (1 - β2) g²        θ <- θ - α m / (1 - β1^t) / (sqrt(v / (1 - β2^t)) + ε)

g: gradient. t: number of the step, from 1. α: learning rate. Kingma and Ba 2015, "Adam: a method for stochastic optimization", algorithm 1
with its defaults β1 = 0.9, β2 = 0.999, ε = 1e-8. No deviation.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from halfstep import parallel

_FIRST, _SECOND, _EPSILON = 0.9, 0.999, 1e-8


def minibatches(
    num_samples: int, batch_size: int, num_iterations: int, generator: torch.Generator, device: torch.device
) -> Iterator[Tensor]:
    """Indices of ``num_iterations`` minibatches: every epoch in a new order, without what is left over at its end."""
    size, done = min(batch_size, num_samples), 0
    while done < num_iterations:
        order = torch.randperm(num_samples, generator=generator, device=generator.device).to(device)
        for chosen in order.split(size)[: min(num_samples // size, num_iterations - done)]:
            yield chosen
            done += 1


@contextmanager
def learning() -> Iterator[None]:
    """Within it kernels use all threads, and give the same bytes every time on as many of them; convolutions on CUDA in full float32."""
    with parallel.all_threads(), torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True, allow_tf32=False):
        yield


class Samples:
    """A tensor [N, ...] of which samples are taken: images with their channels innermost, copied to one buffer."""

    def __init__(self, tensor: Tensor) -> None:
        self._is_image = tensor.ndim in (4, 5)
        laid_out = tensor.movedim(1, -1) if self._is_image else tensor
        self._shape, self._rows = laid_out.shape[1:], laid_out.flatten(1)
        self._buffer = tensor.new_empty(0)

    def take(self, chosen: Tensor) -> Tensor:
        """The samples with the indices ``chosen``; the next call overwrites them."""
        if len(self._buffer) != len(chosen):
            self._buffer = self._rows.new_empty(len(chosen), self._rows.shape[1])
        found = torch.index_select(self._rows, 0, chosen, out=self._buffer).view(len(chosen), *self._shape)
        return found.movedim(-1, 1) if self._is_image else found


class Adam:
    """Minimizes over ``parameter``, which `descend` changes in place."""

    def __init__(self, parameter: Tensor, learning_rate: float) -> None:
        self.parameter, self.learning_rate = parameter, learning_rate
        self._m, self._v, self._root = torch.zeros_like(parameter), torch.zeros_like(parameter), torch.empty_like(parameter)
        self._num_steps = 0

    def descend(self, gradient: Tensor) -> None:
        """One step; ``gradient`` has the shape of the parameter."""
        self._num_steps += 1
        self._m.lerp_(gradient, 1 - _FIRST)
        self._v.mul_(_SECOND).addcmul_(gradient, gradient, value=1 - _SECOND)
        correction = (1 - _SECOND**self._num_steps) ** 0.5
        root = torch.sqrt(self._v, out=self._root).add_(_EPSILON * correction)
        self.parameter.addcdiv_(self._m, root, value=-self.learning_rate * correction / (1 - _FIRST**self._num_steps))

    def reach(self) -> Tensor:
        """How far at most all further steps together move each parameter, upward positive, if its gradients are all 0 from now on.

        With g = 0 the k-th further step is at most α β1^k |m| / (1 - β1^t) / (β2^(k/2) sqrt(v)) long, and all go one way: a geometric
        series.
        """
        ratio = _FIRST / _SECOND**0.5
        series = ratio / (1 - ratio) / (1 - _FIRST ** max(self._num_steps, 1))
        return torch.where(self._m == 0, 0, -self.learning_rate * series * self._m / self._v.sqrt())
