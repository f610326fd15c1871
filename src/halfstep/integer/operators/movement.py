"""Operators that move codes and compute nothing: every output code is an input code, or the code of 0 in a padding."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

import torch
import torch.nn.functional as F
from torch import Tensor

from halfstep.integer.operators.abstract import OPERATORS, AbstractMovement, Values


@final
@OPERATORS.register("reshape")
@dataclass(frozen=True, eq=False)
class Reshape(AbstractMovement):
    """The same codes in the same order (row-major) under another shape."""

    def run(self, codes: Sequence[Tensor], values: Values) -> Tensor:
        """The output's shape behind the batch."""
        return codes[0].reshape(len(codes[0]), *values[self.output].shape)

    def check(self, values: Values) -> None:
        """As many codes on both sides."""
        super().check(values)
        if values[self.inputs[0]].size != values[self.output].size:
            raise self.fail("it changes the number of codes.")


@final
@OPERATORS.register("copy")
@dataclass(frozen=True, eq=False)
class Copy(AbstractMovement):
    """Transposed, sliced, flipped, repeated: ``y[i0, i1, ...] = x.flat[offset + i0 * strides[0] + i1 * strides[1] + ...]``.

    sizes: of the loops; their product is the number of output codes, which come out in row-major order.
    """

    sizes: tuple[int, ...]
    strides: tuple[int, ...]
    offset: int

    def indices(self) -> Tensor:
        """For every output code, the place of its input code in row-major order; int64, shape ``sizes``."""
        index = torch.tensor(self.offset)
        for size, stride in zip(self.sizes, self.strides, strict=True):
            index = index[..., None] + torch.arange(size) * stride
        return index

    def run(self, codes: Sequence[Tensor], values: Values) -> Tensor:
        """See the class."""
        return codes[0].reshape(len(codes[0]), -1)[:, self.indices().flatten()].view(len(codes[0]), *values[self.output].shape)

    def check(self, values: Values) -> None:
        """Every place it reads exists."""
        super().check(values)
        reach = [(size - 1) * stride for size, stride in zip(self.sizes, self.strides, strict=True)]
        low, high = (self.offset + sum(bound(0, far) for far in reach) for bound in (min, max))
        if low < 0 or high >= values[self.inputs[0]].size:
            raise self.fail("it reads outside its input.")


@final
@OPERATORS.register("gather")
@dataclass(frozen=True, eq=False)
class Gather(AbstractMovement):
    """``y.flat[i] = x.flat[index[i]]``: what no `Copy` can say, such as a reflected border. index: [size of the output]."""

    index: Tensor

    def run(self, codes: Sequence[Tensor], values: Values) -> Tensor:
        """See the class."""
        return codes[0].reshape(len(codes[0]), -1)[:, self.index].view(len(codes[0]), *values[self.output].shape)

    def check(self, values: Values) -> None:
        """Every place it reads exists."""
        super().check(values)
        if int(self.index.min()) < 0 or int(self.index.max()) >= values[self.inputs[0]].size:
            raise self.fail("it reads outside its input.")


@final
@OPERATORS.register("pad")
@dataclass(frozen=True, eq=False)
class Pad(AbstractMovement):
    """The input in a frame of zeros (the code of 0 is the zero point). padding: (before, after) of every axis of a sample."""

    padding: tuple[tuple[int, int], ...]

    def run(self, codes: Sequence[Tensor], values: Values) -> Tensor:
        """See the class."""
        around = [size for pair in reversed(self.padding) for size in pair]
        return F.pad(codes[0], around, value=values[self.inputs[0]].zero_point)

    def check(self, values: Values) -> None:
        """Sizes that add up, and nothing cut off."""
        super().check(values)
        x, y = values[self.inputs[0]].shape, values[self.output].shape
        if any(min(pair) < 0 for pair in self.padding) or y != tuple(n + sum(pair) for n, pair in zip(x, self.padding, strict=True)):
            raise self.fail(f"a padding of {self.padding} makes no {list(y)} of {list(x)}.")
