"""Element-wise operators: arithmetic, comparison, logic, bits, functions of one number."""

from __future__ import annotations

import operator
from collections.abc import Callable
from functools import reduce
from typing import Any

import numpy as np
import onnx
import torch
from torch import Tensor

from halfstep.onnx_import.call import Call, Known, Translate, Translation, Value
from halfstep.onnx_import.tensors import TORCH_TYPES, type_name

Operand = Any  # Tensor | Number: which of the two is decided by `Call.operand`


def operands(call: Call) -> tuple[Operand, Operand]:
    """Both operands of a binary operator, at least one of them a tensor."""
    first, second = call.value(0), call.value(1)
    if isinstance(first, Tensor):
        return first, call.operand(1, first)
    if isinstance(second, Tensor):
        return call.operand(0, second), second
    return call.as_tensor(first), call.as_tensor(second)


def binary(function: Callable[[Operand, Operand], Tensor]) -> Translation:
    """An operator of two operands that Python's own operators compute."""
    return Translation(lambda call: function(*operands(call)), takes_numbers=True)


def unary(function: Callable[[Tensor], Tensor]) -> Translation:
    """A function of one tensor without attributes."""
    return Translation(lambda call: function(call.tensor(0)))


def _tensors(call: Call) -> tuple[Tensor, Tensor]:
    """Both operands as tensors, for functions that take no numbers."""
    return call.tensor(0), call.tensor(1)


def _divide(call: Call) -> Tensor:
    """Integers are divided towards zero."""
    x, y = operands(call)
    is_float = (x if isinstance(x, Tensor) else y).is_floating_point()
    return x / y if is_float else torch.div(x, y, rounding_mode="trunc")


def _modulo(call: Call) -> Tensor:
    x, y = _tensors(call)
    return torch.fmod(x, y) if call.flag("fmod") else torch.remainder(x, y)


def _power(call: Call) -> Tensor:
    """The result has the type of the base."""
    x, exponent = call.tensor(0), call.operand(1, call.tensor(0))
    if isinstance(exponent, float) and exponent.is_integer() and not x.is_floating_point():
        exponent = int(exponent)
    result: Tensor = torch.pow(x, exponent)
    return converted(result, x.dtype)


def _shift(call: Call) -> Tensor:
    x, y = (converted(value, torch.int64) for value in _tensors(call))
    shifted = torch.bitwise_left_shift(x, y) if call.text("direction", "") == "LEFT" else torch.bitwise_right_shift(x, y)
    return converted(shifted, call.tensor(0).dtype)


def _fold(function: Callable[[Tensor, Tensor], Tensor]) -> Translate:
    """An operator of any number of operands."""
    return lambda call: reduce(function, call.tensors())


def _extreme(function: Callable[[Tensor, Tensor], Tensor], bound: str) -> Translate:
    """Max and Min; beside a number they are a clamp, which grids absorb."""

    def translate(call: Call) -> Tensor:
        if len(call.inputs) == 2:
            x, y = operands(call)
            x, y = (x, y) if isinstance(x, Tensor) else (y, x)
            if not isinstance(y, Tensor):
                return torch.clamp(x, **{bound: y})
            return function(x, y)
        return reduce(function, call.tensors())

    return translate


def _mean(call: Call) -> Tensor:
    return reduce(operator.add, call.tensors()) / len(call.inputs)


def _where(call: Call) -> Tensor:
    condition, branches = call.tensor(0), [call.value(1), call.value(2)]
    beside = next((branch for branch in branches if isinstance(branch, Tensor)), None)
    if beside is None:
        return torch.where(condition, call.tensor(1), call.tensor(2))
    x, y = (_operand(call, index, beside) for index in (1, 2))
    if not isinstance(x, Tensor) and _broadcasts_to(condition, beside):
        return torch.masked_fill(beside, condition, x)
    if not isinstance(y, Tensor) and _broadcasts_to(condition, beside):
        return torch.masked_fill(beside, torch.logical_not(condition), y)
    return torch.where(condition, call.tensor(1), call.tensor(2))


def _operand(call: Call, index: int, beside: Tensor) -> Operand:
    return call.operand(index, beside)


def _broadcasts_to(small: Tensor, large: Tensor) -> bool:
    """Whether ``small`` has no axis that is longer than that of ``large``."""
    pairs = zip(reversed(small.shape), reversed(large.shape), strict=False)
    return small.ndim <= large.ndim and all(a == 1 or a == b for a, b in pairs)


def converted(x: Tensor, dtype: torch.dtype) -> Tensor:
    """``x`` with elements of another type; without a trace where they are of that type already."""
    result: Tensor = x if x.dtype == dtype else torch.ops.aten._to_copy.default(x, dtype=dtype)
    return result


def _cast(call: Call) -> Value:
    number = call.integer("to", 0)
    return cast(call, call.value(0), number)


def cast(call: Call, value: Value, number: int) -> Value:
    """``value`` with elements of ONNX's type ``number``; rounding towards zero into integers."""
    if number not in TORCH_TYPES:
        raise call.refusal(f"elements of type {type_name(number)} have no form in PyTorch. Export the network with another type.")
    if isinstance(value, Tensor):
        return converted(value, TORCH_TYPES[number])
    if not value.is_numeric:
        return value  # sizes stay integers
    with np.errstate(all="ignore"):
        return Known(value.array.astype(onnx.helper.tensor_dtype_to_np_dtype(number)))


def _cast_like(call: Call) -> Value:
    wanted = call.tensor(1).dtype
    return cast(call, call.value(0), next(number for number, dtype in TORCH_TYPES.items() if dtype == wanted))


def _is_infinite(call: Call) -> Tensor:
    x = call.tensor(0)
    wanted = [torch.isposinf(x)] if call.flag("detect_positive", 1) else []
    wanted += [torch.isneginf(x)] if call.flag("detect_negative", 1) else []
    return reduce(torch.logical_or, wanted) if wanted else torch.zeros_like(x, dtype=torch.bool)


def _clip(call: Call) -> Tensor:
    """Bounds are inputs since opset 11; an empty one bounds nothing. Numbers where they are known."""
    x = call.tensor(0)
    low, high = (_operand(call, index, x) if call.has(index) else None for index in (1, 2))
    if low is None and high is None:
        return x
    if isinstance(low, Tensor) or isinstance(high, Tensor):
        low, high = (call.optional_tensor(index) for index in (1, 2))
    return torch.clamp(x, low, high)


def _identity(call: Call) -> Value:
    return call.value(0)


def _constant(call: Call) -> Value:
    attributes = call.operation.attributes
    if len(attributes) != 1:
        raise call.refusal("it has no single value. The file is damaged: export it again.")
    ((name, value),) = attributes.items()
    if name == "value":
        return Known(value)
    if name in ("value_float", "value_floats"):
        return Known(np.array(value, np.float32))
    if name in ("value_int", "value_ints"):
        return Known(np.array(value, np.int64))
    raise call.refusal(f"constants of kind '{name}' are not read. Export the network without them.")


ELEMENTWISE: dict[str, Translation] = {
    "Add": binary(operator.add),
    "Sub": binary(operator.sub),
    "Mul": binary(operator.mul),
    "Div": Translation(_divide, takes_numbers=True),
    "Mod": Translation(_modulo),
    "Pow": Translation(_power, takes_numbers=True),
    "BitShift": Translation(_shift),
    "BitwiseAnd": binary(operator.and_),
    "BitwiseOr": binary(operator.or_),
    "BitwiseXor": binary(operator.xor),
    "BitwiseNot": unary(torch.bitwise_not),
    "Equal": binary(operator.eq),
    "Greater": binary(operator.gt),
    "GreaterOrEqual": binary(operator.ge),
    "Less": binary(operator.lt),
    "LessOrEqual": binary(operator.le),
    "And": Translation(lambda call: torch.logical_and(*_tensors(call))),
    "Or": Translation(lambda call: torch.logical_or(*_tensors(call))),
    "Xor": Translation(lambda call: torch.logical_xor(*_tensors(call))),
    "Not": unary(torch.logical_not),
    "Max": Translation(_extreme(torch.maximum, "min"), takes_numbers=True),
    "Min": Translation(_extreme(torch.minimum, "max"), takes_numbers=True),
    "Sum": Translation(_fold(operator.add)),
    "Mean": Translation(_mean),
    "Where": Translation(_where, takes_numbers=True),
    "Clip": Translation(_clip, takes_numbers=True),
    "Cast": Translation(_cast),
    "CastLike": Translation(_cast_like),
    "Identity": Translation(_identity),
    "Constant": Translation(_constant),
    "IsNaN": unary(torch.isnan),
    "IsInf": Translation(_is_infinite),
    **{
        name: unary(getattr(torch, name.lower()))
        for name in (
            "Abs", "Acos", "Acosh", "Asin", "Asinh", "Atan", "Atanh", "Ceil", "Cos", "Cosh", "Erf", "Exp", "Floor", "Log", "Neg",
            "Reciprocal", "Round", "Sign", "Sin", "Sinh", "Sqrt", "Tan",
        )
    },
}  # fmt: skip
"""Operator -> its translation."""
