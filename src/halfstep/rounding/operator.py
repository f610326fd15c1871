"""A layer as a linear map: how its weight is a set of rows, and which of its inputs meet them.

    y[n, g R + r, p] = sum_j  W[g, r, j] x[n, g, p, j]  +  b[g R + r]

n: sample. p: output position (one for a linear layer on vectors). g: group. r: output channel of the group. j: entry of a row, that is an
input channel and a place in the kernel. x[n, g, p]: the patch of the input that output position p sees, with zeros where it reaches over
the border (Nagel et al. 2020, appendix B). A transposed convolution is a convolution of its input spread out with zeros.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F


@dataclass(frozen=True)
class LinearOperator:
    """A linear layer (the default) or a convolution with ``len(stride)`` spatial axes, transposed or not.

    Weights have the shape PyTorch gives them: [O, I / groups, *kernel], transposed [I, O / groups, *kernel], linear [O, I].
    end_padding: zeros that only the end of each axis gets ('same' padding of a kernel of even size); none where it is empty.
    """

    stride: tuple[int, ...] = ()
    padding: tuple[int, ...] = ()
    dilation: tuple[int, ...] = ()
    groups: int = 1
    is_transposed: bool = False
    output_padding: tuple[int, ...] = ()
    end_padding: tuple[int, ...] = ()

    @property
    def num_axes(self) -> int:
        """Spatial axes: 0 for a linear layer."""
        return len(self.stride)

    def rows(self, weight: Tensor) -> Tensor:
        """``weight`` as [G, R, d]: of each group, a row for each output channel, input channel before kernel place."""
        grouped: Tensor = weight.unflatten(0, (self.groups, -1))
        return (grouped.transpose(1, 2) if self.is_transposed else grouped).flatten(2)

    def weight(self, rows: Tensor, shape: torch.Size) -> Tensor:
        """The inverse of `rows` for a weight of ``shape``."""
        if not self.is_transposed:
            return rows.reshape(shape)
        inputs, outputs = shape[0] // self.groups, shape[1]
        return rows.reshape(self.groups, outputs, inputs, *shape[2:]).transpose(1, 2).reshape(shape)

    def __call__(self, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        """The layer's output for the input ``x`` [N, I, *space] ([..., I] for a linear layer)."""
        if self.num_axes == 0:
            return F.linear(x, weight, bias)
        if self.is_transposed:
            call: Any = (F.conv_transpose1d, F.conv_transpose2d, F.conv_transpose3d)[self.num_axes - 1]
            spread: Tensor = call(x, weight, bias, self.stride, self.padding, self.output_padding, self.groups, self.dilation)
            return spread
        if any(self.end_padding):
            x = F.pad(x, [side for end in reversed(self.end_padding) for side in (0, end)])
        convolution: Any = (F.conv1d, F.conv2d, F.conv3d)[self.num_axes - 1]
        found: Tensor = convolution(x, weight, bias, self.stride, self.padding, self.dilation, self.groups)
        return found

    def num_positions(self, x: Tensor, weight: Tensor) -> int:
        """Output positions of one sample."""
        if self.num_axes == 0:
            return math.prod(x.shape[1:-1])
        return math.prod(self._output_space(x, weight))

    def patches(self, x: Tensor, weight: Tensor, positions: Tensor) -> Tensor:
        """What the output ``positions`` [N, P] (flat indices) of each sample see of ``x``: [G, N P, d], in the order of `rows`.

        Only the chosen positions are gathered: the input is never unfolded. ``weight`` gives the kernel's size alone.
        """
        if self.num_axes == 0:
            flat = x.reshape(len(x), -1, x.shape[-1])
            chosen = flat.gather(1, positions[..., None].expand(-1, -1, flat.shape[-1]))
            return chosen.flatten(0, 1)[None]
        space, kernel = self._output_space(x, weight), weight.shape[2:]
        x, starts = self._spread(x, kernel)
        places, is_inside = self._places(positions, space, kernel, starts, x.shape[2:])  # [N, P, K]
        channels_last = x.flatten(2).transpose(1, 2)  # [N, S, I]: one contiguous read a place where images already lie so
        offsets = torch.arange(len(x), device=x.device)[:, None, None] * channels_last.shape[1]
        gathered = channels_last.reshape(-1, x.shape[1])[(places + offsets).flatten()]  # [N P K, I]
        gathered *= is_inside.flatten()[:, None]
        grouped = gathered.view(-1, math.prod(kernel), self.groups, x.shape[1] // self.groups)
        return grouped.permute(2, 0, 3, 1).flatten(2)

    def _output_space(self, x: Tensor, weight: Tensor) -> list[int]:
        sizes = []
        for axis in range(self.num_axes):
            size, reach = x.shape[2 + axis], self.dilation[axis] * (weight.shape[2 + axis] - 1)
            if self.is_transposed:
                sizes.append((size - 1) * self.stride[axis] - 2 * self.padding[axis] + reach + self.output_padding[axis] + 1)
            else:
                end = self.end_padding[axis] if self.end_padding else 0
                sizes.append((size + 2 * self.padding[axis] + end - reach - 1) // self.stride[axis] + 1)
        return sizes

    def _spread(self, x: Tensor, kernel: torch.Size) -> tuple[Tensor, list[int]]:
        """The input that the kernel slides over, and how far before its first entry the kernel starts on each axis."""
        if not self.is_transposed:
            return x, list(self.padding)
        spread = x.new_zeros(*x.shape[:2], *((n - 1) * s + 1 for n, s in zip(x.shape[2:], self.stride, strict=True)))
        entries: Any = (..., *(slice(None, None, s) for s in self.stride))
        spread[entries] = x
        return spread, [d * (size - 1) - p for d, size, p in zip(self.dilation, kernel, self.padding, strict=True)]

    def _places(
        self, positions: Tensor, space: list[int], kernel: torch.Size, starts: list[int], size: torch.Size
    ) -> tuple[Tensor, Tensor]:
        """Flat index into the input's space of every kernel place at every position, [N, P, K], and whether it lies inside."""
        corners = torch.unravel_index(positions, space)
        axes = [torch.arange(length, device=positions.device) for length in kernel]
        if self.is_transposed:  # the kernel meets the spread input mirrored
            axes = [axis.flip(0) for axis in axes]
        taps = torch.meshgrid(*axes, indexing="ij")
        stride = (1,) * self.num_axes if self.is_transposed else self.stride
        flat = torch.zeros((), dtype=torch.int64, device=positions.device)
        is_inside = torch.ones((), dtype=torch.bool, device=positions.device)
        for axis in range(self.num_axes):
            place = (corners[axis] * stride[axis] - starts[axis])[..., None] + taps[axis].flatten() * self.dilation[axis]
            flat = flat * size[axis] + place.clamp(0, size[axis] - 1)
            is_inside = is_inside & (place >= 0) & (place < size[axis])
        return flat, is_inside
