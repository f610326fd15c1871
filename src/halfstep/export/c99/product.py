"""A layer with weights as rows, and as windows that gather what a row is multiplied with."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray

from halfstep.export.c99.window import Window
from halfstep.integer import Value
from halfstep.integer.operators import Conv, ConvTranspose, Linear
from halfstep.integer.packing import width_of


@dataclass(frozen=True)
class Product:
    """rows: weights [groups * rows a group, terms], int64. bias: int64 [rows], of sums over plain codes, borders and gaps included."""

    window: Window
    rows: NDArray[np.int64]
    bias: NDArray[np.int64]
    groups: int
    num_channels: int

    @cached_property
    def bits(self) -> int:
        """Of a stored weight: 2, 3, 4, 8 or 16."""
        return int(width_of(torch.from_numpy(self.rows)))

    @property
    def num_terms(self) -> int:
        """Of a column and a row as they are stored: a multiple of 4, of 8 at 3 bits."""
        multiple = 8 if self.bits == 3 else 4
        return -(-int(self.rows.shape[1]) // multiple) * multiple

    @property
    def is_depthwise(self) -> bool:
        """One input channel and one output channel a group: vectors of channels, no columns."""
        return self.groups > 1 and self.groups == self.num_channels == len(self.rows)


def product(operator: Conv | ConvTranspose | Linear, x: Value, y: Value) -> Product:
    """The layer as rows and windows."""
    bias = operator.bias.numpy().astype(np.int64)
    if isinstance(operator, Linear):
        places = (x.size // x.shape[-1],)
        return Product(Window.of(places, places, (1,), (1,), (0,), (1,)), operator.weight.numpy().astype(np.int64), bias, 1, x.shape[-1])
    weight = operator.weight.numpy().astype(np.int64)
    kernel = weight.shape[2:]
    if isinstance(operator, Conv):
        before = tuple(pair[0] for pair in operator.padding)
        window = Window.of(x.shape[1:], y.shape[1:], kernel, operator.stride, before, operator.dilation)
    else:
        before = tuple(d * (k - 1) - p for d, k, p in zip(operator.dilation, kernel, operator.padding, strict=True))
        window = Window.of(x.shape[1:], y.shape[1:], kernel, (1,) * len(kernel), before, operator.dilation, operator.stride)
        grouped = weight.reshape(operator.groups, -1, *weight.shape[1:]).swapaxes(1, 2)
        weight = np.flip(grouped.reshape(-1, *grouped.shape[2:]), tuple(range(2, 2 + len(kernel))))
    rows = np.ascontiguousarray(np.moveaxis(weight, 1, -1)).reshape(len(weight), -1)
    if isinstance(operator, ConvTranspose):
        bias = bias - x.zero_point * rows.sum(1)
    return Product(window, rows, bias, operator.groups, x.shape[0])
