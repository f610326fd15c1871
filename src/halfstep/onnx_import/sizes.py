"""Arithmetic on sizes: what is computed with a free batch size while the network is recorded.

Such a value is an array of Python integers and torch's symbols (``dtype=object``), which NumPy adds, joins and slices like any other. Each
entry of `SIZES` takes the operation and its inputs and gives such an array; it means the same as the operator's translation.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np

from halfstep.onnx_import.call import Call, Known
from halfstep.onnx_import.tensors import Array

Compute: TypeAlias = Callable[[Call], Any]


def compute(call: Call) -> Known | tuple[Known, ...] | None:
    """The result of an operation all of whose inputs are known, symbols among them; None where this file has no entry for it."""
    function = SIZES.get(call.operation.op_type)
    if function is None:
        return None
    result = function(call)
    return tuple(settled(part) for part in result) if isinstance(result, tuple) else settled(result)


def settled(values: Any) -> Known:
    """An array of numbers where there are no symbols left."""
    array = np.asarray(values, dtype=object)
    kinds = {type(value) for value in array.flat}
    if kinds <= {bool, np.bool_}:
        return Known(array.astype(bool))
    return Known(array.astype(np.int64) if kinds <= {int, np.int64, np.int32} else array)


def _array(call: Call, index: int) -> Array:
    return call.known(index).astype(object)


def _elementwise(function: Callable[[Any, Any], Any]) -> Compute:
    vectorized = np.frompyfunc(function, 2, 1)
    return lambda call: vectorized(_array(call, 0), _array(call, 1))


def _gather(call: Call) -> Any:
    return np.take(_array(call, 0), call.known(1).astype(np.int64), axis=call.integer("axis", 0))


def _concat(call: Call) -> Any:
    return np.concatenate([_array(call, index) for index in range(len(call.inputs))], axis=call.integer("axis", 0))


def _slice(call: Call) -> Any:
    array, starts, ends = _array(call, 0), call.integers(1), call.integers(2)
    axes = call.integers(3) if call.has(3) else range(len(starts))
    steps = call.integers(4) if call.has(4) else [1] * len(starts)
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        places: list[slice] = [slice(None)] * array.ndim
        places[axis] = slice(start, end, step)
        array = array[tuple(places)]
    return array


def _squeeze(call: Call) -> Any:
    axes = call.axes(1)
    return np.squeeze(_array(call, 0), None if axes is None else tuple(axes))


def _unsqueeze(call: Call) -> Any:
    return np.expand_dims(_array(call, 0), tuple(call.axes(1) or ()))


def _split(call: Call) -> Any:
    array, axis, count = _array(call, 0), call.integer("axis", 0), len(call.operation.outputs)
    sizes = call.integers(1) if call.has(1) else call.listed("split")
    return tuple(np.array_split(array, count if sizes is None else np.cumsum(sizes)[:-1], axis))


def _reduce(function: Callable[[Any], Any]) -> Compute:
    def compute_all(call: Call) -> Any:
        array, axes = _array(call, 0), call.axes(1)
        if array.ndim > 1 and axes is not None:
            raise call.refusal("sizes are reduced over one axis only. Export the network with fixed sizes.")
        whole = np.array(function(array.reshape(-1).tolist()), dtype=object)
        return whole.reshape([1] * array.ndim) if call.flag("keepdims", 1) else whole

    return compute_all


SIZES: dict[str, Compute] = {
    "Add": _elementwise(lambda a, b: a + b),
    "Sub": _elementwise(lambda a, b: a - b),
    "Mul": _elementwise(lambda a, b: a * b),
    "Div": _elementwise(lambda a, b: a // b),
    "Mod": _elementwise(lambda a, b: a % b),
    "Equal": _elementwise(lambda a, b: bool(a == b)),
    "Greater": _elementwise(lambda a, b: bool(a > b)),
    "Less": _elementwise(lambda a, b: bool(a < b)),
    "Where": lambda call: np.where(call.known(0).astype(bool), _array(call, 1), _array(call, 2)),
    "Identity": lambda call: _array(call, 0),
    "Gather": _gather,
    "Concat": _concat,
    "Slice": _slice,
    "Squeeze": _squeeze,
    "Unsqueeze": _unsqueeze,
    "Reshape": lambda call: _array(call, 0).reshape(call.integers(1)),
    "Split": _split,
    "ReduceProd": _reduce(math.prod),
    "ReduceSum": _reduce(sum),
}
"""Operator -> what it does to an array of sizes."""
