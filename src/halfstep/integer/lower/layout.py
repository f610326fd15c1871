"""Where the samples of a batch lie in a tensor of the graph: along which axis, and what shares that axis with them.

Mostly the batch is the first axis. Attention layers move it behind the positions, or count samples and heads, or positions and samples,
along one axis. An axis of ``outer * batch * inner`` entries holds sample ``(index // inner) % batch`` at each index.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Layout:
    """axis: that holds the batch. outer, inner: what is counted before and behind the samples along it."""

    axis: int = 0
    outer: int = 1
    inner: int = 1

    @property
    def is_alone(self) -> bool:
        """Whether the axis holds nothing but the batch; a sample is without it then."""
        return self.outer * self.inner == 1

    def batch_size(self, shape: tuple[int, ...]) -> int:
        """How many samples a tensor of ``shape`` holds."""
        return shape[self.axis] // (self.outer * self.inner)

    def sample(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """The shape of one sample of a tensor of ``shape``."""
        shared = () if self.is_alone else (self.outer * self.inner,)
        return (*shape[: self.axis], *shared, *shape[self.axis + 1 :])

    def batch(self, sample: tuple[int, ...], batch_size: int) -> tuple[int, ...]:
        """The shape of a tensor that holds ``batch_size`` samples: the inverse of `sample`."""
        if self.is_alone:
            return (*sample[: self.axis], batch_size, *sample[self.axis :])
        return (*sample[: self.axis], batch_size * sample[self.axis], *sample[self.axis + 1 :])

    def to_samples(self, x: Tensor) -> Tensor:
        """[batch, *sample]."""
        shape = tuple(x.shape)
        apart = x.reshape(*shape[: self.axis], self.outer, self.batch_size(shape), self.inner, *shape[self.axis + 1 :])
        return apart.movedim(self.axis + 1, 0).reshape(self.batch_size(shape), *self.sample(shape))

    def from_samples(self, samples: Tensor, shape: tuple[int, ...]) -> Tensor:
        """The tensor of ``shape`` that holds ``samples`` [batch, ...]."""
        before, behind = shape[: self.axis], shape[self.axis + 1 :]
        apart = samples.reshape(len(samples), *before, self.outer, self.inner, *behind)
        return apart.movedim(0, self.axis + 1).reshape(shape)


def find_layout(samples: Tensor, batch_size: int) -> Layout | None:
    """The layout of a tensor whose every entry is the number of the sample it belongs to; None where it follows none."""
    for axis, size in enumerate(samples.shape):
        if size % batch_size:
            continue
        for inner in (n for n in range(1, size // batch_size + 1) if size // batch_size % n == 0):
            pattern = (torch.arange(size) // inner % batch_size).view(-1, *[1] * (samples.ndim - axis - 1))
            if torch.equal(samples, pattern.expand_as(samples).to(samples.dtype)):
                return Layout(axis, size // batch_size // inner, inner)
    return None
