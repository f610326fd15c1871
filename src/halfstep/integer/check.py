"""What must hold of an integer program, as a function a test can call: the executable specification."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from halfstep.errors import LoweringError
from halfstep.integer.operators import AbstractOperator, Values
from halfstep.integer.program import IntegerProgram
from halfstep.integer.requantization import MAX_SHIFT, check_mode
from halfstep.integer.value import Value

_REACH = {"multiplier": 2**31 - 1, "shift": MAX_SHIFT}  # of the parts of a rescale


def check(program: IntegerProgram) -> IntegerProgram:
    """``program`` itself; raises `LoweringError`, naming operator and value, where something does not hold.

    Every value is computed once and before it is read; shapes, axes and arrays fit; codes lie on their grids; the zero point is a code;
    every array holds integers (but for the real scales of the mode ``float``); no accumulator can pass 32 bits, whatever the input; no
    multiplier has more than 31 bits. The shapes are what the operators really make: each runs once, on one sample of zeros.
    """
    check_mode(program.mode)
    for name, value in program.values.items():
        _check_value(name, value)
    known = set(program.inputs)
    for operator in program.operators:
        missing = [name for name in operator.inputs if name not in known]
        if missing or operator.output not in program.values or operator.output in known:
            raise operator.fail(f"it reads {missing or 'what there is'} and writes '{operator.output}', which is not in order.")
        _check_operator(operator, program.values)
        known.add(operator.output)
    lost = [name for name in (*program.inputs, *program.outputs) if name not in known or name not in program.values]
    if lost or not program.outputs or len(set(program.inputs)) < max(1, len(program.inputs)):
        raise LoweringError(f"The program has no value for {lost}." if lost else "A program has inputs, each once, and outputs.")
    return program


def _check_value(name: str, value: Value) -> None:
    if name != value.name:
        raise LoweringError(f"The value '{value.name}' is entered as '{name}'.")
    if not value.grid.minimum <= value.zero_point <= value.grid.maximum:
        raise LoweringError(f"The zero point {value.zero_point} of '{name}' is none of its codes.")
    if any(size < 1 for size in value.shape):
        raise LoweringError(f"The value '{name}' is empty: its shape is {list(value.shape)}.")
    if not (math.isfinite(value.scale) and value.scale > 0):
        raise LoweringError(f"The scale {value.scale} of '{name}' is not a positive number.")


def _check_operator(operator: AbstractOperator, values: Values) -> None:
    for field, array in operator.arrays():
        _check_integers(operator, field, array)
    try:
        operator.check(values)
        made = operator.run([_zeros(values[name]) for name in operator.inputs], values)
    except (IndexError, RuntimeError, ValueError) as error:
        raise operator.fail(f"its arrays, axes and shapes do not fit each other: {error}.") from error
    if tuple(made.shape[1:]) != values[operator.output].shape:
        raise operator.fail(f"it makes a tensor of shape {list(made.shape[1:])}, its value has {list(values[operator.output].shape)}.")


def _check_integers(operator: AbstractOperator, field: str, array: Tensor) -> None:
    if array.is_floating_point():
        raise operator.fail(f"its {field} holds floats.")
    reach = _REACH.get(field.rpartition(".")[2])
    if reach is not None and not bool(((array >= 0) & (array <= reach)).all()):
        raise operator.fail(f"its {field} lies outside 0 .. {reach}.")


def _zeros(value: Value) -> Tensor:
    """One sample of the value 0."""
    return torch.full((1, *value.shape), value.zero_point, dtype=torch.int32)
