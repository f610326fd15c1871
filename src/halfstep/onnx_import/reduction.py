"""Reductions over axes, which are an attribute in older opsets and an input in newer ones."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from halfstep.onnx_import.call import Call, Translation
from halfstep.onnx_import.elementwise import converted

Reduce = Callable[[Tensor, list[int], bool], Tensor]


def _reduction(function: Reduce) -> Translation:
    def translate(call: Call) -> Tensor:
        x, keeps = call.tensor(0), call.flag("keepdims", 1)
        axes = call.axes(1)
        if not axes:
            if call.flag("noop_with_empty_axes"):
                return function(x.unsqueeze(-1), [x.ndim], False)
            axes = list(range(x.ndim))
        axes = [call.within(axis, x.ndim) for axis in axes]
        return function(x, axes, keeps) if axes else function(x.reshape(1), [0], False)

    return Translation(translate, values=(1,))


def _mean(x: Tensor, axes: list[int], keeps: bool) -> Tensor:
    if not x.is_floating_point():
        return converted(torch.sum(x, axes, keeps) / _count(x, axes), x.dtype)
    return torch.mean(x, axes, keeps)


def _count(x: Tensor, axes: list[int]) -> int:
    count = 1
    for axis in axes:
        count *= x.shape[axis]
    return count


def _sum(x: Tensor, axes: list[int], keeps: bool) -> Tensor:
    return torch.sum(x, axes, keeps, dtype=x.dtype)


def _product(x: Tensor, axes: list[int], keeps: bool) -> Tensor:
    for axis in sorted(axes, reverse=True):
        x = torch.prod(x, axis, keeps, dtype=x.dtype)
    return x


def _extreme(function: Callable[[Tensor, list[int], bool], Tensor], empty: float) -> Reduce:
    def reduce(x: Tensor, axes: list[int], keeps: bool) -> Tensor:
        if x.numel() == 0:  # the extreme of nothing
            return torch.full_like(torch.sum(x, axes, keeps, dtype=x.dtype), _bound(x.dtype, empty))
        return function(x, axes, keeps)

    return reduce


def _bound(dtype: torch.dtype, infinity: float) -> float:
    """The largest or smallest value of a type."""
    if dtype.is_floating_point or dtype is torch.bool:
        return infinity if dtype.is_floating_point else float(infinity > 0)
    return torch.iinfo(dtype).max if infinity > 0 else torch.iinfo(dtype).min


def _l2(x: Tensor, axes: list[int], keeps: bool) -> Tensor:
    return converted(torch.sqrt(torch.sum(x * x, axes, keeps)), x.dtype)


_INFINITY = float("inf")

REDUCTION: dict[str, Translation] = {
    "ReduceMean": _reduction(_mean),
    "ReduceSum": _reduction(_sum),
    "ReduceProd": _reduction(_product),
    "ReduceMax": _reduction(_extreme(torch.amax, -_INFINITY)),
    "ReduceMin": _reduction(_extreme(torch.amin, _INFINITY)),
    "ReduceL1": _reduction(lambda x, axes, keeps: _sum(x.abs(), axes, keeps)),
    "ReduceL2": _reduction(_l2),
    "ReduceSumSquare": _reduction(lambda x, axes, keeps: _sum(x * x, axes, keeps)),
    "ReduceLogSum": _reduction(lambda x, axes, keeps: torch.log(_sum(x, axes, keeps))),
    "ReduceLogSumExp": _reduction(torch.logsumexp),
}
"""Operator -> its translation."""
