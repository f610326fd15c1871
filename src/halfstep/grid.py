"""The integers a tensor may take, the tensor on them, and the gradient through rounding.

    value = (codes - zero_point) * scale

A `Grid` says which integers exist; `scale` and `zero_point` say where they lie on the real line. They hold one number for the
whole tensor (shape ``[]``), one a channel (shape ``[C]``, along ``grid.channel_axis``), or one for each group of neighbouring entries of a
row of a matrix (shape ``[C, num_groups]``); where ``grid.group_size`` does not divide the row, its last group is shorter.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from halfstep.errors import RecipeError, did_you_mean

_TYPE = re.compile(r"(u?)int(\d+)")
_STORAGE = {(8, True): torch.int8, (8, False): torch.uint8, (16, True): torch.int16, (16, False): torch.uint16}


@dataclass(frozen=True)
class Grid:
    """``Grid(bits=4, signed=True, symmetric=True, channel_axis=0)``: int4, one scale for each output channel.

    symmetric: the zero point is 0 (unsigned too); otherwise it may be any code. narrow: the lowest signed code is left out, so
    that the grid mirrors itself ([-127, 127] instead of [-128, 127]). group_size: of a matrix whose rows are the channels, how many entries
    of a row share a scale; None: all of them.
    """

    bits: int
    signed: bool
    symmetric: bool = True
    channel_axis: int | None = None
    narrow: bool = False
    group_size: int | None = None

    def __post_init__(self) -> None:
        if not 2 <= self.bits <= 32:
            raise RecipeError(f"A grid has 2 to 32 bits, not {self.bits}.")
        if self.narrow and not self.signed:
            raise RecipeError("Only a signed grid can be narrow: an unsigned one has no lowest code to leave out.")
        if self.group_size is not None and (self.group_size < 1 or self.channel_axis != 0):
            raise RecipeError("A grid has groups of 1 or more entries of each channel of axis 0: set per_channel where group_size is set.")

    @classmethod
    def parse(
        cls,
        type_name: str,
        *,
        symmetric: bool = True,
        channel_axis: int | None = None,
        narrow: bool = False,
        group_size: int | None = None,
    ) -> Grid:
        """The grid of a type written as in a recipe: "int8", "uint4" (2 to 16 bits); raises `RecipeError` otherwise."""
        match = _TYPE.fullmatch(type_name)
        if match is None or not 2 <= int(match[2]) <= 16:
            known = [f"{sign}int{bits}" for sign in ("", "u") for bits in range(2, 17)]
            raise RecipeError(f"'{type_name}' is not an integer type of 2 to 16 bits. {did_you_mean(type_name, known)}")
        signed = not match[1]
        return cls(int(match[2]), signed, symmetric, channel_axis, narrow and signed, group_size)

    @property
    def minimum(self) -> int:
        """The lowest code."""
        return int(self.narrow) - (1 << (self.bits - 1)) if self.signed else 0

    @property
    def maximum(self) -> int:
        """The highest code."""
        return (1 << (self.bits - 1)) - 1 if self.signed else (1 << self.bits) - 1

    @property
    def num_levels(self) -> int:
        """How many codes there are."""
        return self.maximum - self.minimum + 1

    @property
    def type_name(self) -> str:
        """ "int8", "uint4" ..."""
        return f"{'' if self.signed else 'u'}int{self.bits}"

    @property
    def storage(self) -> torch.dtype:
        """The smallest torch integer type that holds every code."""
        if self.bits <= 16:
            return _STORAGE[8 if self.bits <= 8 else 16, self.signed]
        return torch.int32 if self.signed or self.bits < 32 else torch.uint32

    def per_tensor(self) -> Grid:
        """The same integers with one scale for the whole tensor."""
        return replace(self, channel_axis=None, group_size=None)

    def per_channel(self) -> Grid:
        """The same integers with one scale for each channel, not for each group of its entries."""
        return replace(self, group_size=None)

    def scale_shape(self, shape: Sequence[int]) -> tuple[int, ...]:
        """The shape of scale and zero point of a tensor of ``shape``: [], [C] or [C, num_groups]."""
        if self.channel_axis is None:
            return ()
        if self.group_size is None:
            return (shape[self.channel_axis],)
        num_channels, num_entries = shape
        return num_channels, -(-num_entries // self.group_size)

    def along(self, parameter: Tensor, shape: Sequence[int]) -> Tensor:
        """``parameter`` of shape [], [C] or [C, num_groups], shaped to broadcast against a tensor of ``shape``."""
        if self.channel_axis is None or parameter.ndim == 0:
            return parameter
        if self.group_size is not None:
            return parameter.repeat_interleave(min(self.group_size, shape[1]), 1)[:, : shape[1]]
        broadcast = [1] * len(shape)
        broadcast[self.channel_axis] = -1
        return parameter.view(broadcast)

    def to_json(self) -> dict[str, Any]:
        """Plain values; ``Grid(**grid.to_json()) == grid``."""
        return {name: getattr(self, name) for name in self.__dataclass_fields__}


@dataclass(frozen=True)
class Quantized:
    """A tensor on its grid. ``codes`` hold integers in a floating type, so that gradients may pass straight through."""

    codes: Tensor
    scale: Tensor
    zero_point: Tensor
    grid: Grid

    def dequantize(self) -> Tensor:
        """``(codes - zero_point) * scale``, in the type of ``codes``."""
        shape = self.codes.shape
        zero_point, scale = self.grid.along(self.zero_point, shape), self.grid.along(self.scale, shape)
        return (self.codes - zero_point) * scale

    def integers(self) -> Tensor:
        """The codes in the smallest integer type that holds them."""
        return self.codes.detach().to(self.grid.storage)


class _RoundStraightThrough(torch.autograd.Function):
    """Round half to even; the gradient passes as if nothing had happened (Bengio et al. 2013)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return torch.round(x)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        return gradients[0]


def round_straight_through(x: Tensor) -> Tensor:
    """``round(x)``, half to even as in ONNX, with gradient 1 everywhere."""
    if not (x.requires_grad and torch.is_grad_enabled()):
        return torch.round(x)
    rounded: Tensor = _RoundStraightThrough.apply(x)  # type: ignore[no-untyped-call]
    return rounded


def quantize_affine(x: Tensor, scale: Tensor, zero_point: Tensor, grid: Grid) -> Quantized:
    """``codes = clamp(round(x / scale) + zero_point, minimum, maximum)``: ONNX QuantizeLinear on any grid.

    Straight-through in x: gradient 1 where the code lies inside the grid, 0 where it is clipped.
    """
    codes = round_straight_through(x / grid.along(scale, x.shape))
    codes = torch.clamp(codes + grid.along(zero_point, x.shape), grid.minimum, grid.maximum)
    return Quantized(codes, scale, zero_point, grid)
