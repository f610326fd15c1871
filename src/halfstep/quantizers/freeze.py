"""From a quantizer that was trained to the fixed grid that simulation, export and integer programs know.

    codes, s, z  ->  codes, s, z          where z is an integer
                     2 codes - 2 z, s / 2, 0     on a grid of one bit more, where z is half-way between two codes

The values stay the same bit for bit: doubling and halving are exact.
"""

from __future__ import annotations

import dataclasses

import torch

from halfstep.grid import Quantized
from halfstep.quantizers.uniform import UniformQuantizer


def with_integer_zero_point(quantized: Quantized) -> Quantized:
    """The same values on a grid whose zero point is a code."""
    if torch.equal(quantized.zero_point, quantized.zero_point.round()):
        return quantized
    zero_point = quantized.grid.along(quantized.zero_point, quantized.codes.shape)
    grid = dataclasses.replace(quantized.grid, bits=quantized.grid.bits + 1, signed=True, symmetric=True, narrow=True)
    return Quantized(2 * (quantized.codes - zero_point), quantized.scale / 2, torch.zeros_like(quantized.zero_point), grid)


def along_channels(quantized: Quantized, axis: int) -> Quantized:
    """The same values with a scale of its own for each channel of ``axis``."""
    if quantized.grid.channel_axis is not None:
        return quantized
    count = quantized.codes.shape[axis]
    grid = dataclasses.replace(quantized.grid, channel_axis=axis)
    return Quantized(quantized.codes, quantized.scale.repeat(count), quantized.zero_point.repeat(count), grid)


def uniform_of(quantized: Quantized) -> UniformQuantizer:
    """A fixed quantizer of this grid, switched on."""
    quantizer = UniformQuantizer(quantized.grid, *quantized.scale.shape)
    quantizer.set(quantized.scale.detach(), quantized.zero_point.detach())
    return quantizer
