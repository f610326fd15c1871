"""Pooling. PyTorch's operators where they mean the same; where padding or dilation goes beyond them, padding comes first."""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from halfstep.onnx_import.call import Call, Translation
from halfstep.onnx_import.convolution import pad_spatial, paddings, positive, spatial_axes
from halfstep.onnx_import.elementwise import converted

_MAX: dict[int, Any] = {1: F.max_pool1d, 2: F.max_pool2d, 3: F.max_pool3d}
_AVERAGE: dict[int, Any] = {1: F.avg_pool1d, 2: F.avg_pool2d, 3: F.avg_pool3d}
_GLOBAL_AVERAGE: dict[int, Any] = {1: F.adaptive_avg_pool1d, 2: F.adaptive_avg_pool2d, 3: F.adaptive_avg_pool3d}
_CONV: dict[int, Any] = {1: torch.conv1d, 2: torch.conv2d, 3: torch.conv3d}


class Window:
    """Kernel, strides, dilations and paddings of a pooling operator on ``x``."""

    def __init__(self, call: Call, x: Tensor) -> None:
        self.count = spatial_axes(call, x)
        if call.listed("kernel_shape") is None:
            raise call.refusal("it lacks 'kernel_shape'. The file is damaged: export it again.")
        self.kernel = positive(call, "kernel_shape", self.count)
        self.strides, self.dilations = positive(call, "strides", self.count), positive(call, "dilations", self.count)
        self.pads = paddings(call, x, self.kernel, self.strides, self.dilations)
        self.ceil = call.flag("ceil_mode")
        if any(amount < 0 for pair in self.pads for amount in pair):
            raise call.refusal(f"its paddings {self.pads} are negative. The file is damaged: export it again.")

    @property
    def is_plain(self) -> bool:
        """Whether PyTorch takes the paddings: equal at both ends and at most half a kernel."""
        return all(b == e and 2 * b <= kernel for (b, e), kernel in zip(self.pads, self.kernel, strict=True))

    @property
    def begins(self) -> list[int]:
        """The paddings in front."""
        return [begin for begin, _ in self.pads]

    def overhang(self, x: Tensor) -> list[tuple[int, int]]:
        """What ``ceil_mode`` adds at the ends of the padded ``x``, so that the last window is whole."""
        extra = []
        for axis, (begin, end) in enumerate(self.pads):
            size, stride = int(x.shape[2 + axis]) + begin + end, self.strides[axis]
            reach = self.dilations[axis] * (self.kernel[axis] - 1) + 1
            count = math.ceil((size - reach) / stride) + 1 if self.ceil else (size - reach) // stride + 1
            if self.ceil and (count - 1) * stride >= int(x.shape[2 + axis]) + begin:
                count -= 1  # a window that starts behind the values
            extra.append((0, max((count - 1) * stride + reach - size, 0)))
        return extra


def _max_pool(call: Call) -> Tensor:
    call.only_output(1, "the places of the maxima")
    x = call.tensor(0)
    window = Window(call, x)
    if not x.is_floating_point():
        return converted(_pooled_maximum(converted(x, torch.float32), window), x.dtype)
    return _pooled_maximum(x, window)


def _pooled_maximum(x: Tensor, window: Window) -> Tensor:
    pads = window.begins
    if not window.is_plain:
        x, pads = pad_spatial(x, window.pads, -math.inf), [0] * window.count
    result: Tensor = _MAX[window.count](x, window.kernel, window.strides, pads, window.dilations, window.ceil)
    return result


def _average_pool(call: Call) -> Tensor:
    x, counts_padding = call.tensor(0), call.flag("count_include_pad")
    window = Window(call, x)
    if window.is_plain and set(window.dilations) == {1}:
        result: Tensor = _AVERAGE[window.count](x, window.kernel, window.strides, window.begins, window.ceil, counts_padding)
        return result
    mask = pad_spatial(torch.ones_like(x[:1, :1]), window.pads, float(counts_padding))
    overhang = window.overhang(x)
    total = _sums(pad_spatial(pad_spatial(x, window.pads), overhang), window)
    return total / _sums(pad_spatial(mask, overhang), window)


def _sums(x: Tensor, window: Window) -> Tensor:
    """The sum in every window of ``x``, padded already."""
    channels = x.shape[1]
    ones = torch.ones((channels, 1, *window.kernel), dtype=x.dtype)
    result: Tensor = _CONV[window.count](x, ones, None, window.strides, 0, window.dilations, channels)
    return result


def _lp_pool(call: Call) -> Tensor:
    x, p = call.tensor(0), call.integer("p", 2)
    window = Window(call, x)
    padded = pad_spatial(pad_spatial(x.abs() ** p, window.pads), window.overhang(x))
    return _sums(padded, window) ** (1 / p)


def _global_average(call: Call) -> Tensor:
    x = call.tensor(0)
    result: Tensor = _GLOBAL_AVERAGE[spatial_axes(call, x)](x, 1)
    return result


def _global_max(call: Call) -> Tensor:
    x = call.tensor(0)
    return torch.amax(x, list(range(2, x.ndim)), keepdim=True)


def _global_lp(call: Call) -> Tensor:
    x, p = call.tensor(0), call.integer("p", 2)
    return (x.abs() ** p).sum(list(range(2, x.ndim)), keepdim=True) ** (1 / p)


POOLING: dict[str, Translation] = {
    "MaxPool": Translation(_max_pool),
    "AveragePool": Translation(_average_pool),
    "LpPool": Translation(_lp_pool),
    "GlobalAveragePool": Translation(_global_average),
    "GlobalMaxPool": Translation(_global_max),
    "GlobalLpPool": Translation(_global_lp),
}
"""Operator -> its translation."""
