"""In which order the axes of a tensor lie in memory.

An `Order` lists the axes of a sample from the outermost to the innermost. Feature maps [C, ...] that convolutions and poolings work on lie
channels last: every place then holds its channels side by side, which is how vectors and columns of products read them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from halfstep.export.c99.text import code_type, item_bytes
from halfstep.integer import Value

Order = tuple[int, ...]


def row_major(num_axes: int) -> Order:
    """As the program counts: the last axis innermost."""
    return tuple(range(num_axes))


def channels_last(num_axes: int) -> Order:
    """The first axis innermost."""
    return (*range(1, num_axes), 0) if num_axes else ()


@dataclass(frozen=True)
class Place:
    """A value in one order of its axes."""

    value: Value
    order: Order

    @classmethod
    def of(cls, value: Value, order: Order) -> Place:
        """In its plainest form: axes of size 1 lie anywhere, so that equal bytes have equal orders."""
        long = [axis for axis in order if value.shape[axis] > 1]
        return cls(value, row_major(len(order)) if long == sorted(long) else order)

    @property
    def key(self) -> tuple[str, Order]:
        """What tells it from others."""
        return self.value.name, self.order

    @property
    def code(self) -> str:
        """How its codes lie in memory, see `code_type`."""
        return code_type(self.value.grid)

    @property
    def num_bytes(self) -> int:
        """In memory."""
        return self.value.size * item_bytes(self.code)

    @property
    def is_row_major(self) -> bool:
        """Whether it lies as the program counts."""
        return self.order == row_major(len(self.order))

    @property
    def strides(self) -> tuple[int, ...]:
        """Of every axis of the sample, in codes."""
        strides = [0] * len(self.order)
        step = 1
        for axis in reversed(self.order):
            strides[axis] = step
            step *= self.value.shape[axis]
        return tuple(strides)

    def addresses(self) -> NDArray[np.int64]:
        """Where each code lies, in an array of the value's shape."""
        sizes = tuple(self.value.shape[axis] for axis in self.order)
        places: NDArray[np.int64] = np.arange(math.prod(sizes), dtype=np.int64).reshape(sizes)
        moved: NDArray[np.int64] = places.transpose(np.argsort(self.order))
        return moved

    def aligned_strides(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """Strides along the axes of a ``shape`` it broadcasts to: 0 where it is repeated."""
        missing = len(shape) - len(self.order)
        own = [0 if size == 1 else stride for size, stride in zip(self.value.shape, self.strides, strict=True)]
        return (*[0] * missing, *own)
