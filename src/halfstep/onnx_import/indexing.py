"""Operators that choose or place values by index, and those that make indices."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from halfstep.onnx_import.call import Call, Known, Translation
from halfstep.onnx_import.elementwise import converted
from halfstep.onnx_import.tensors import TORCH_TYPES


def _gather(call: Call) -> Tensor:
    """One known index is a `select`; a table read row by row an `embedding`; others `index_select`."""
    x, axis = call.tensor(0), call.axis(call.tensor(0).ndim, 0)
    value = call.value(1)
    if isinstance(value, Known) and value.array.ndim == 0:
        return torch.select(x, axis, int(call.number(1)))
    indices = converted(call.tensor(1), torch.int64)
    if isinstance(value, Known):
        if (value.array < 0).any():
            indices = torch.remainder(indices, x.shape[axis])
    elif x.ndim == 2 and axis == 0 and not isinstance(call.value(0), Tensor) and x.is_floating_point():
        return torch.nn.functional.embedding(indices, x)
    else:
        indices = torch.where(indices < 0, indices + x.shape[axis], indices)
    if indices.ndim == 1:
        return torch.index_select(x, axis, indices)
    chosen = torch.index_select(x, axis, indices.reshape(-1))
    return chosen.reshape(*x.shape[:axis], *indices.shape, *x.shape[axis + 1 :])


def _positive(indices: Tensor, size: int) -> Tensor:
    """Negative indices counted from the end."""
    return torch.where(indices < 0, indices + size, indices)


def _gather_elements(call: Call) -> Tensor:
    x, axis = call.tensor(0), call.axis(call.tensor(0).ndim, 0)
    return torch.gather(x, axis, _positive(converted(call.tensor(1), torch.int64), x.shape[axis]))


def _gather_nd(call: Call) -> Tensor:
    x, indices, batch = call.tensor(0), converted(call.tensor(1), torch.int64), call.integer("batch_dims", 0)
    if batch == 0:
        return x[tuple(indices.unbind(-1))]
    lead = tuple(x.shape[:batch])
    flat, places = x.reshape(-1, *x.shape[batch:]), indices.reshape(-1, *indices.shape[batch:])
    rows = torch.arange(flat.shape[0]).reshape(-1, *[1] * (places.ndim - 2))
    chosen_places = (rows, *places.unbind(-1))
    chosen = flat[chosen_places]
    return chosen.reshape(*lead, *chosen.shape[1:])


_REDUCTIONS: dict[str, str] = {"add": "sum", "mul": "prod", "max": "amax", "min": "amin"}


def _scatter_elements(call: Call) -> Tensor:
    x, axis, reduction = call.tensor(0), call.axis(call.tensor(0).ndim, 0), call.text("reduction", "none")
    indices, updates = _positive(converted(call.tensor(1), torch.int64), x.shape[axis]), call.tensor(2)
    if reduction == "none":
        return torch.scatter(x, axis, indices, updates)
    return torch.scatter_reduce(x, axis, indices, updates, _REDUCTIONS[reduction])


def _scatter_nd(call: Call) -> Tensor:
    x, indices, updates = call.tensor(0), converted(call.tensor(1), torch.int64), call.tensor(2)
    reduction, depth = call.text("reduction", "none"), int(indices.shape[-1])
    if reduction == "none":
        return torch.index_put(x, tuple(indices.reshape(-1, depth).unbind(-1)), updates.reshape(-1, *x.shape[depth:]))
    places = torch.arange(x.numel()).reshape(x.shape)[tuple(indices.unbind(-1))]
    flat = torch.scatter_reduce(x.reshape(-1), 0, places.reshape(-1), updates.reshape(-1), _REDUCTIONS[reduction])
    return flat.reshape(x.shape)


def _one_hot(call: Call) -> Tensor:
    indices, depth, values = converted(call.tensor(0), torch.int64), int(call.number(1)), call.tensor(2)
    axis = call.integer("axis", -1)
    axis = call.within(axis, indices.ndim + 1)
    indices = _positive(indices, depth).unsqueeze(axis)
    classes = torch.arange(depth).reshape([-1 if k == axis else 1 for k in range(indices.ndim)])
    return torch.where(indices == classes, values[1], values[0])


def _argument(function: Any) -> Any:
    """ArgMax and ArgMin; of several equal values the first one, or the last one."""

    def translate(call: Call) -> Tensor:
        x = call.tensor(0)
        axis, keeps = call.axis(x.ndim, 0), call.flag("keepdims", 1)
        if not call.flag("select_last_index"):
            return function(x, axis, keepdim=keeps)  # type: ignore[no-any-return]
        return x.shape[axis] - 1 - function(torch.flip(x, [axis]), axis, keepdim=keeps)  # type: ignore[no-any-return]

    return translate


def _top_k(call: Call) -> tuple[Tensor, Tensor]:
    x, k = call.tensor(0), int(call.number(1))
    axis = call.axis(x.ndim, -1)
    values, indices = torch.sort(x, stable=True, dim=axis, descending=call.flag("largest", 1))
    return values.narrow(axis, 0, k), indices.narrow(axis, 0, k)


def _range(call: Call) -> Tensor:
    start, limit, step = (call.number(index) for index in range(3))
    return torch.arange(start, limit, step, dtype=call.tensor(0).dtype)


def _eye_like(call: Call) -> Tensor:
    x, k = call.tensor(0), call.integer("k", 0)
    number = call.integer("dtype", 0)
    rows, columns = torch.arange(x.shape[0])[:, None], torch.arange(x.shape[1])[None, :]
    return converted(columns - rows == k, TORCH_TYPES.get(number, x.dtype))


def _trilu(call: Call) -> Tensor:
    k = int(call.number(1)) if call.has(1) else 0
    return torch.triu(call.tensor(0), k) if call.flag("upper", 1) else torch.tril(call.tensor(0), k)


def _cumulative(function: Any, is_sum: bool) -> Any:
    def translate(call: Call) -> Tensor:
        x = call.tensor(0)
        axis = call.within(int(call.number(1)), x.ndim)
        x = torch.flip(x, [axis]) if call.flag("reverse") else x
        if call.flag("exclusive"):
            first = (torch.zeros_like if is_sum else torch.ones_like)(x.narrow(axis, 0, 1))
            x = torch.cat([first, x.narrow(axis, 0, int(x.shape[axis]) - 1)], axis)
        result = converted(function(x, axis), x.dtype)
        return torch.flip(result, [axis]) if call.flag("reverse") else result

    return translate


INDEXING: dict[str, Translation] = {
    "Gather": Translation(_gather),
    "GatherElements": Translation(_gather_elements),
    "GatherND": Translation(_gather_nd),
    "ScatterElements": Translation(_scatter_elements),
    "Scatter": Translation(_scatter_elements),
    "ScatterND": Translation(_scatter_nd),
    "OneHot": Translation(_one_hot, values=(1,)),
    "ArgMax": Translation(_argument(torch.argmax)),
    "ArgMin": Translation(_argument(torch.argmin)),
    "TopK": Translation(_top_k, values=(1,)),
    "Range": Translation(_range, values=(0, 1, 2)),
    "EyeLike": Translation(_eye_like),
    "Trilu": Translation(_trilu, values=(1,)),
    "CumSum": Translation(_cumulative(torch.cumsum, True), values=(1,)),
    "CumProd": Translation(_cumulative(torch.cumprod, False), values=(1,)),
}
"""Operator -> its translation."""
