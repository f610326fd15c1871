"""The random programs cover what they are there for: every operator, mode, width and form."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Iterator

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from random_programs import INTEGER_MODES, programs, random_codes, random_program

from halfstep.integer import MODES, IntegerProgram, Rescale, check, run
from halfstep.integer.operators import OPERATORS, AbstractOperator, AveragePool, Concat, Conv, ConvTranspose, Copy, Linear, Lookup, MaxPool
from halfstep.integer.packing import width_of


@pytest.fixture(scope="module")
def seen() -> Counter[str]:
    """What 300 programs hold."""
    counter: Counter[str] = Counter()
    for seed in range(300):
        counter.update(_features(random_program(seed)))
    return counter


def _features(program: IntegerProgram) -> Iterator[str]:
    yield program.mode
    yield f"{len(program.inputs)} inputs"
    yield f"{min(2, len(program.outputs))} outputs"
    for value in program.values.values():
        yield value.grid.type_name
        yield f"{len(value.shape)} axes"
        yield "odd zero point" if value.zero_point % 2 else "zero point"
    for operator in program.operators:
        shapes = [program.values[name].shape for name in operator.inputs]
        yield operator.kind
        yield from _rescales(operator)
        yield from _geometry(operator, shapes)
        yield from _movements(operator)
        if operator.kind in ("add", "mul") and len(set(shapes)) > 1:
            yield f"{operator.kind} broadcasts"
        if operator.kind in ("add", "mul", "matmul") and len({len(shape) for shape in shapes}) > 1:
            yield f"{operator.kind} of other ranks"


def _rescales(operator: AbstractOperator) -> Iterator[str]:
    rescales = [getattr(operator, "rescale", None), *getattr(operator, "rescales", ())]
    for rescale in [rescale for rescale in rescales if isinstance(rescale, Rescale)]:
        yield "rescale a channel" if rescale.multiplier.numel() > 1 else "rescale a tensor"
        yield "left shift" if float(rescale.value().max()) > 1 else "right shift"
    if isinstance(operator, (Conv, ConvTranspose, Linear)):
        yield f"weight of {width_of(operator.weight)} bits"


def _geometry(operator: AbstractOperator, shapes: list[tuple[int, ...]]) -> Iterator[str]:
    if isinstance(operator, (Conv, ConvTranspose, AveragePool, MaxPool)):
        yield f"{operator.kind} in {len(operator.stride)} axes"
    if isinstance(operator, (Conv, ConvTranspose)):
        yield f"{operator.kind} {'one group' if operator.groups == 1 else 'depthwise' if operator.groups == shapes[0][0] else 'grouped'}"
    if isinstance(operator, (Conv, ConvTranspose, MaxPool)):
        yield f"{operator.kind} {'dilated' if max(operator.dilation) > 1 else 'dense'}"
    if isinstance(operator, (Conv, MaxPool, AveragePool)):
        yield f"{operator.kind} {'asymmetric' if any(a != b for a, b in operator.padding) else 'symmetric'}"
    if isinstance(operator, AveragePool):
        yield "several divisors" if len(operator.divisors) > 1 else "one divisor"


def _movements(operator: AbstractOperator) -> Iterator[str]:
    if isinstance(operator, Lookup):
        yield "table a channel" if len(operator.table) > 1 else "table a tensor"
    if isinstance(operator, Copy):
        yield "flipped" if min(operator.strides) < 0 else "repeated" if 0 in operator.strides else "copied"
    if isinstance(operator, Concat):
        yield "concat of several" if len(operator.inputs) > 1 else "concat of one"


def test_every_kind_mode_and_width(seen: Counter[str]) -> None:
    widths = [f"{sign}int{bits}" for sign in ("", "u") for bits in range(2, 17)]
    wanted = [*OPERATORS, *INTEGER_MODES, *widths, "int32", *(f"weight of {bits} bits" for bits in (2, 3, 4, 8, 16))]
    assert [name for name in wanted if not seen[name]] == []
    assert set(INTEGER_MODES) == set(MODES) - {"float"}


def test_every_form(seen: Counter[str]) -> None:
    layers = ("conv", "conv_transpose", "average_pool", "max_pool")
    wanted = [f"{kind} in {axes} axes" for kind in layers for axes in (1, 2, 3)]
    wanted += [f"{kind} {form}" for kind in layers[:2] for form in ("one group", "grouped", "depthwise")]
    wanted += [f"{kind} {form}" for kind in ("conv", "conv_transpose", "max_pool") for form in ("dilated", "dense")]
    wanted += [f"{kind} {form}" for kind in ("conv", "max_pool", "average_pool") for form in ("asymmetric", "symmetric")]
    wanted += ["1 inputs", "2 inputs", "3 inputs", "1 outputs", "2 outputs", "odd zero point", "left shift", "right shift"]
    wanted += ["0 axes", "1 axes", "2 axes", "3 axes", "4 axes", "rescale a channel", "rescale a tensor", "several divisors"]
    wanted += ["table a channel", "flipped", "repeated", "concat of several", "add broadcasts", "mul broadcasts"]
    wanted += [f"{kind} of other ranks" for kind in ("add", "mul", "matmul")]
    assert [name for name in wanted if not seen[name]] == []


def test_the_same_seed_gives_the_same_program() -> None:
    for seed in range(20):
        one, other = random_program(seed), random_program(seed)
        assert one.values == other.values
        assert [dataclasses.astuple(operator)[:3] for operator in one.operators] == [
            dataclasses.astuple(operator)[:3] for operator in other.operators
        ]
        codes = random_codes(one, 3, seed)
        assert all(torch.equal(a, b) for a, b in zip(run(one, codes), run(other, codes), strict=True))


@given(programs(), st.integers(0, 2**31 - 1))
@settings(deadline=None, max_examples=100)
def test_sound_and_on_their_grids(program: IntegerProgram, seed: int) -> None:
    check(program)
    assert 0 <= len(program.operators) <= 32

    def on_grid(name: str, codes: torch.Tensor) -> None:
        value = program.values[name]
        assert codes.dtype == torch.int32
        assert tuple(codes.shape[1:]) == value.shape
        assert value.grid.minimum <= int(codes.min()) <= int(codes.max()) <= value.grid.maximum

    codes = random_codes(program, 3, seed)
    outputs = run(program, codes, on_grid)
    assert [tuple(output.shape) for output in outputs] == [(3, *program.values[name].shape) for name in program.outputs]
