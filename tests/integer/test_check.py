"""Each rule of the specification, broken once: the check finds it and names the place."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import pytest
import torch
from random_programs import random_program

from halfstep.errors import LoweringError
from halfstep.grid import Grid
from halfstep.integer import IntegerProgram, Rescale, Value, check, rescale
from halfstep.integer.operators import (
    OPERATORS,
    Add,
    Argmax,
    AveragePool,
    Concat,
    Constant,
    Conv,
    ConvTranspose,
    Copy,
    Embedding,
    Gather,
    LayerNorm,
    Linear,
    Lookup,
    Matmul,
    MaxPool,
    Mean,
    Mul,
    Pad,
    Requantize,
    Reshape,
    Softmax,
)
from halfstep.integer.requantization import exact_power

INT8, UINT8, INT32 = Grid(8, True), Grid(8, False, symmetric=False), Grid(32, True)
ONE = exact_power(-4)


def _value(name: str, shape: tuple[int, ...], grid: Grid = INT8, zero_point: int = 0) -> Value:
    return Value(name, shape, grid, 0.1, zero_point)


def _ones(*shape: int) -> torch.Tensor:
    return torch.ones(shape, dtype=torch.int64)


def _program(operator: Any, shape: tuple[int, ...], made: tuple[int, ...], num_inputs: int = 1) -> IntegerProgram:
    names = ("x", "x2")[:num_inputs]
    values = {name: _value(name, shape) for name in names} | {"y": _value("y", made)}
    return IntegerProgram("net", values, (operator,), names, ("y",))


START = ("layer", ("x",), "y")
PAIR = ("layer", ("x", "x2"), "y")
REQUANTIZED = (ONE, -128, 127)
SOUND: dict[str, IntegerProgram] = {
    "conv": _program(Conv(*START, *REQUANTIZED, _ones(4, 2, 3), _ones(4), (1,), ((1, 1),), (1,)), (2, 8), (4, 8)),
    "conv_transpose": _program(ConvTranspose(*START, *REQUANTIZED, _ones(2, 4, 3), _ones(4), (2,), (1,), (1,), (1,)), (2, 8), (4, 16)),
    "linear": _program(Linear(*START, *REQUANTIZED, _ones(4, 8), _ones(4)), (2, 8), (2, 4)),
    "matmul": _program(Matmul(*PAIR, *REQUANTIZED), (3, 3), (3, 3), 2),
    "mul": _program(Mul(*PAIR, *REQUANTIZED), (3, 3), (3, 3), 2),
    "add": _program(Add(*PAIR, (100, 50), 7, -128, 127), (3, 3), (3, 3), 2),
    "concat": _program(Concat(*PAIR, 0, (ONE, ONE), -128, 127), (3, 3), (6, 3), 2),
    "requantize": _program(Requantize(*START, *REQUANTIZED), (3, 3), (3, 3)),
    "mean": _program(Mean(*START, *REQUANTIZED, (1,)), (3, 3), (3, 1)),
    "average_pool": _program(AveragePool(*START, *REQUANTIZED, (2,), (2,), ((0, 0),), ((2, 2),), (2,)), (3, 4), (3, 2)),
    "max_pool": _program(MaxPool(*START, (2,), (2,), ((0, 0),), (1,)), (3, 4), (3, 2)),
    "argmax": _program(Argmax(*START, 0), (3, 4), (4,)),
    "lookup": _program(Lookup(*START, torch.arange(-128, 128)[None]), (3, 4), (3, 4)),
    "reshape": _program(Reshape(*START), (3, 4), (4, 3)),
    "copy": _program(Copy(*START, (4, 3), (1, 4), 0), (3, 4), (4, 3)),
    "gather": _program(Gather(*START, torch.tensor([0, 11])), (3, 4), (2,)),
    "pad": _program(Pad(*START, ((1, 0), (0, 0))), (3, 4), (4, 4)),
    "embedding": _program(Embedding(*START, _ones(9, 5)), (3, 4), (3, 4, 5)),
    "softmax": _program(Softmax(*PAIR, 1, ONE, 2, 2**60, 52, _ones(1, 4)), (3, 4), (3, 4), 2),
    "layer_norm": _program(LayerNorm(*START, 3, True, 4, 9, _ones(4), _ones(4), 1, 3, 5, -128, 127), (3, 4), (3, 4)),
}


def _with(program: IntegerProgram, **changes: Any) -> IntegerProgram:
    """With other fields of its operator."""
    return dataclasses.replace(program, operators=(dataclasses.replace(program.operators[0], **changes),))


def _valued(program: IntegerProgram, name: str, /, **changes: Any) -> IntegerProgram:
    """With another value."""
    return dataclasses.replace(program, values={**program.values, name: dataclasses.replace(program.values[name], **changes)})


def test_every_kind_has_a_sound_program() -> None:
    assert {*SOUND, "constant"} == set(OPERATORS)


@pytest.mark.parametrize("kind", SOUND)
def test_a_sound_program_is_returned(kind: str) -> None:
    assert check(SOUND[kind]) is SOUND[kind]


@pytest.mark.parametrize("kind", SOUND)
def test_the_shape_of_the_result(kind: str) -> None:
    with pytest.raises(LoweringError, match=rf"Operator 'layer' \({kind}\)"):
        check(_valued(SOUND[kind], "y", shape=(5, 7)))


@pytest.mark.parametrize("kind", SOUND)
def test_a_value_that_is_not_there_yet(kind: str) -> None:
    program = SOUND[kind]
    with pytest.raises(LoweringError, match="which is not in order"):
        check(dataclasses.replace(program, inputs=("y",)))
    with pytest.raises(LoweringError, match="which is not in order"):
        check(dataclasses.replace(program, operators=program.operators * 2))
    with pytest.raises(LoweringError, match="which is not in order"):
        check(dataclasses.replace(program, values={name: value for name, value in program.values.items() if name != "y"}))


BROKEN: dict[str, tuple[str, dict[str, Any], str]] = {
    "weight of other channels": ("conv", {"weight": _ones(4, 3, 3)}, "a weight of shape"),
    "kernel of other rank": ("conv", {"weight": _ones(4, 2, 3, 3)}, "do not fit each other"),
    "groups": ("conv", {"groups": 2}, "makes no"),
    "bias of other channels": ("conv", {"bias": _ones(3)}, "do not fit each other"),
    "float weight": ("conv", {"weight": _ones(4, 2, 3).float()}, "its weight holds floats"),
    "accumulator": ("conv", {"weight": _ones(4, 2, 3) * 2**22}, "beyond 32 bits"),
    "bias beyond 32 bits": ("linear", {"bias": _ones(4) * 2**31}, "beyond 32 bits"),
    "transposed accumulator": ("conv_transpose", {"weight": _ones(2, 4, 3) * 2**22}, "beyond 32 bits"),
    "transposed channels": ("conv_transpose", {"weight": _ones(3, 4, 3)}, "do not fit each other"),
    "codes off the grid": ("linear", {"low": -129}, "do not lie on the grid of 'y'"),
    "codes in no order": ("requantize", {"low": 3, "high": 2}, "do not lie on the grid of 'y'"),
    "rescale of other channels": ("linear", {"rescale": rescale(torch.ones(3), "single_shift")}, "do not fit each other"),
    "rescale for a single channel": ("mean", {"rescale": rescale(torch.ones(5), "single_shift")}, "do not fit each other"),
    "shift": ("mul", {"rescale": Rescale("single_shift", _ones(1), _ones(1) * 63)}, r"its rescale\.shift lies outside 0 \.\. 62"),
    "negative shift": ("mul", {"rescale": Rescale("single_shift", _ones(1), -_ones(1))}, r"its rescale\.shift lies outside"),
    "multiplier": ("mul", {"rescale": Rescale("single_shift", _ones(1) << 31, _ones(1))}, r"its rescale\.multiplier lies outside"),
    "sum beyond 63 bits": ("add", {"multipliers": (2**56, 2**56)}, "out of bounds"),
    "shift of a sum": ("add", {"shift": 63}, "out of bounds"),
    "codes of a sum": ("add", {"high": 128}, "out of bounds"),
    "multipliers of a sum": ("add", {"multipliers": (1,)}, "do not fit each other"),
    "axis of a concat": ("concat", {"axis": 1}, "entries along axis 1"),
    "codes of a concat": ("concat", {"low": -129}, "out of bounds"),
    "parts of a concat": ("concat", {"rescales": (ONE,)}, "do not fit each other"),
    "axis of a mean": ("mean", {"axes": (3,)}, "do not fit each other"),
    "counts": ("average_pool", {"counts": ((2, 2, 2),), "divisors": (1, 2), "rescale": rescale(_ones(2), "single_shift")}, "do not fit"),
    "window beyond the input": ("max_pool", {"kernel": (9,)}, "do not fit each other"),
    "window in the padding": ("max_pool", {"kernel": (1,), "padding": ((1, 0),)}, "a window holds no entry of its input"),
    "axis of an argmax": ("argmax", {"axis": 2}, "do not fit each other"),
    "table of another width": ("lookup", {"table": torch.zeros(1, 255, dtype=torch.int64)}, "does not fit 256 codes"),
    "table of other channels": ("lookup", {"table": torch.zeros(2, 256, dtype=torch.int64)}, "does not fit 256 codes"),
    "table off the grid": ("lookup", {"table": torch.full((1, 256), 128)}, "leaves the grid"),
    "loops beyond the end": ("copy", {"offset": 1}, "reads outside its input"),
    "loops before the start": ("copy", {"strides": (1, -4)}, "reads outside its input"),
    "loops of another size": ("copy", {"sizes": (2, 3)}, "do not fit each other"),
    "index": ("gather", {"index": torch.tensor([0, 12])}, "reads outside its input"),
    "negative index": ("gather", {"index": torch.tensor([-1, 0])}, "reads outside its input"),
    "index of another size": ("gather", {"index": torch.tensor([0, 1, 2])}, "do not fit each other"),
    "rows off the grid": ("embedding", {"table": _ones(9, 5) * 128}, "leaves the grid"),
    "rows of no size": ("embedding", {"table": _ones(9)}, "no rows of one size"),
    "axis of a softmax": ("softmax", {"axis": 2}, "axis or shape"),
    "scales of a softmax": ("softmax", {"rescale": rescale(torch.ones(3), "single_shift")}, "several scales"),
    "scores beyond 28 bits": ("softmax", {"guard": 22}, r"beyond 2\^28"),
    "bias of other axes": ("softmax", {"bias": _ones(4)}, "another number of axes"),
    "bias of another shape": ("softmax", {"bias": _ones(3, 3)}, "do not fit each other"),
    "bias beyond 28 bits": ("softmax", {"bias": _ones(1, 4) * 2**29}, r"beyond 2\^28"),
    "numerator": ("softmax", {"numerator": 2**62}, "numerator or precision"),
    "precision": ("softmax", {"precision": 63}, "numerator or precision"),
    "groups of a norm": ("layer_norm", {"num_groups": 5}, "do not fit its input"),
    "bias of a norm": ("layer_norm", {"bias": _ones(3)}, "do not fit its input"),
    "guard": ("layer_norm", {"guard": 15}, "can pass 63 bits"),
    "epsilon": ("layer_norm", {"epsilon": 0}, "can pass 63 bits"),
    "weight of a norm": ("layer_norm", {"weight": _ones(4) * 2**31}, "out of bounds"),
    "shift of a bias": ("layer_norm", {"bias_shift": 62}, "out of bounds"),
    "codes of a norm": ("layer_norm", {"high": 128}, "out of bounds"),
    "frame": ("pad", {"padding": ((2, -1), (0, 0))}, "a padding of"),
}  # fmt: skip


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_operator(name: str) -> None:
    kind, changes, message = BROKEN[name]
    with pytest.raises(LoweringError, match=message) as caught:
        check(_with(SOUND[kind], **changes))
    assert f"Operator 'layer' ({kind})" in str(caught.value)


@pytest.mark.parametrize("kind", ["max_pool", "reshape", "copy", "gather", "pad"])
@pytest.mark.parametrize("changes", [{"grid": UINT8}, {"zero_point": 3}])
def test_moved_codes_keep_their_grid(kind: str, changes: dict[str, Any]) -> None:
    with pytest.raises(LoweringError, match="it moves codes, and 'y' has another grid or zero point than 'x'"):
        check(_valued(SOUND[kind], "y", **changes))


@pytest.mark.parametrize(
    ("codes", "message"),
    [(_ones(2), r"codes have the shape \[2\]"), (_ones(3) * 128, "leave its grid"), (_ones(3).double(), "its codes holds floats")],
)
def test_a_broken_constant(codes: torch.Tensor, message: str) -> None:
    values = {"x": _value("x", (3,)), "c": _value("c", (3,))}
    constant = Constant("mask", (), "c", _ones(3))
    check(IntegerProgram("net", values, (constant,), ("x",), ("c",)))
    with pytest.raises(LoweringError, match=message):
        check(IntegerProgram("net", values, (dataclasses.replace(constant, codes=codes),), ("x",), ("c",)))


VALUES: dict[str, tuple[Callable[[IntegerProgram], IntegerProgram], str]] = {
    "zero point": (lambda p: _valued(p, "x", zero_point=128), "zero point 128 of 'x' is none of its codes"),
    "empty": (lambda p: _valued(p, "x", shape=(0, 4)), "'x' is empty"),
    "scale": (lambda p: _valued(p, "x", scale=0.0), "scale 0.0 of 'x' is not a positive number"),
    "name": (lambda p: _valued(p, "x", name="z"), "The value 'z' is entered as 'x'"),
    "mode": (lambda p: dataclasses.replace(p, mode="shift"), "Unknown requantization 'shift'"),
    "unknown output": (lambda p: dataclasses.replace(p, outputs=("z",)), r"has no value for \['z'\]"),
    "unknown input": (lambda p: dataclasses.replace(p, inputs=("x", "z")), r"has no value for \['z'\]"),
    "no output": (lambda p: dataclasses.replace(p, outputs=()), "has inputs, each once, and outputs"),
    "an input twice": (lambda p: dataclasses.replace(p, inputs=("x", "x")), "has inputs, each once, and outputs"),
}


@pytest.mark.parametrize("name", VALUES)
def test_a_broken_value_or_program(name: str) -> None:
    change, message = VALUES[name]
    with pytest.raises(LoweringError, match=message):
        check(change(SOUND["reshape"]))


def test_wide_codes_in_a_product_pass_32_bits() -> None:
    wide = _valued(_valued(SOUND["mul"], "x", grid=INT32), "x2", grid=INT32)
    with pytest.raises(LoweringError, match="beyond 32 bits"):
        check(wide)


def test_the_error_says_the_way_out() -> None:
    with pytest.raises(LoweringError, match="fewer bits for its weights or its input with an override in the recipe"):
        check(_with(SOUND["conv"], weight=_ones(4, 2, 3) * 2**22))


def test_random_programs_are_sound_until_an_array_changes() -> None:
    """A weight beyond 32 bits is found wherever it stands."""
    num_found = 0
    for seed in range(40):
        program = random_program(seed)
        for index, operator in enumerate(program.operators):
            if isinstance(operator, (Conv, Linear)):
                wider = dataclasses.replace(operator, weight=operator.weight + 2**31)
                changed = (*program.operators[:index], wider, *program.operators[index + 1 :])
                with pytest.raises(LoweringError, match="beyond 32 bits"):
                    check(dataclasses.replace(program, operators=changed))
                num_found += 1
    assert num_found > 10
