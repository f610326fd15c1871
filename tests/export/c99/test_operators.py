"""Every kind of operator at sizes that fill vectors and leave some over: C and interpreter, bit for bit."""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import Any

import program_builder
import pytest
import torch
from program_builder import Builder
from random_operators import BUILDERS
from random_programs import random_codes

from halfstep.export.c99.emitters import EMITTERS
from halfstep.export.c99.emitters.movement import RELAYOUT
from halfstep.grid import Grid
from halfstep.integer import IntegerProgram, Value, check
from halfstep.integer import operators as kinds
from halfstep.integer.operators import OPERATORS
from halfstep.integer.operators.abstract import sum_bounds

SANITIZED = ["-O1", "-g1", "-fsanitize=undefined,address", "-fno-sanitize-recover=all"]
BY_HAND = [*SANITIZED, "-march=native", "-DHALFSTEP_SIMD"]
MODES = ("fixed_point_32", "fixed_point_16", "single_shift", "double_shift")
UINT8, INT8, INT16, INT12, UINT4, UINT16 = Grid(8, False), Grid(8, True), Grid(16, True), Grid(12, True), Grid(4, False), Grid(16, False)


@pytest.fixture(autouse=True)
def _large(monkeypatch: pytest.MonkeyPatch) -> None:
    """Values of any size."""
    monkeypatch.setattr(program_builder, "_MAX_SIZE", 100_000)


def _program(name: str, builder: Builder, output: Value) -> IntegerProgram:
    return check(IntegerProgram(name, builder.values, tuple(builder.operators), tuple(builder.inputs), (output.name,), builder.mode))


def _start(seed: int, shape: tuple[int, ...], grid: Grid) -> tuple[Builder, Value]:
    builder = Builder(Random(seed), MODES[seed % 4])
    x = builder.new("input", shape, grid, builder.random.randint(grid.minimum, grid.maximum))
    builder.inputs.append(x.name)
    return builder, x


def _weight(builder: Builder, bits: int, shape: tuple[int, ...]) -> torch.Tensor:
    return torch.randint(
        -(1 << (bits - 1)), 1 << (bits - 1), shape, generator=torch.Generator().manual_seed(builder.random.getrandbits(20))
    )


def conv(seed: int, bits: int, grid: Grid, channels: tuple[int, int], groups: int = 1, **window: Any) -> IntegerProgram:
    """3 x 3 over 9 x 7 places, unless said otherwise."""
    builder, x = _start(seed, (channels[0], 9, 7), grid)
    kernel, stride = window.get("kernel", (3, 3)), window.get("stride", (1, 1))
    dilation, padding = window.get("dilation", (1, 1)), window.get("padding", ((1, 1), (1, 0)))
    sizes = [(n + sum(p) - d * (k - 1) - 1) // s + 1 for n, p, d, k, s in zip((9, 7), padding, dilation, kernel, stride, strict=True)]
    weight, bias = _weight(builder, bits, (channels[1], channels[0] // groups, *kernel)), builder.bias(channels[1])
    y = builder.result("conv", (channels[1], *sizes))
    ending = builder.finish(y, sum_bounds(weight.flatten(1), grid.minimum, grid.maximum, bias), channels[1])
    shapes = {"stride": stride, "padding": padding, "dilation": dilation, "groups": groups}
    builder.add(kinds.Conv, y, (x,), weight=weight, bias=bias, **shapes, **ending)
    return _program(f"conv_{seed}", builder, y)


def conv_transpose(seed: int, bits: int, grid: Grid, channels: tuple[int, int], groups: int = 1) -> IntegerProgram:
    builder, x = _start(seed, (channels[0], 5, 4), grid)
    weight, bias = _weight(builder, bits, (channels[0], channels[1] // groups, 3, 2)), builder.bias(channels[1])
    y = builder.result("conv_transpose", (channels[1], 10, 8))
    ending = builder.finish(y, (-(2**20), 2**20), channels[1])
    shapes = {"stride": (2, 2), "padding": (1, 0), "output_padding": (1, 0), "dilation": (1, 1), "groups": groups}
    builder.add(kinds.ConvTranspose, y, (x,), weight=weight, bias=bias, **shapes, **ending)
    return _program(f"conv_transpose_{seed}", builder, y)


def linear(seed: int, bits: int, grid: Grid, shape: tuple[int, ...], size: int) -> IntegerProgram:
    builder, x = _start(seed, shape, grid)
    weight, bias = _weight(builder, bits, (size, shape[-1])), builder.bias(size)
    y = builder.result("linear", (*shape[:-1], size))
    ending = builder.finish(y, sum_bounds(weight, grid.minimum, grid.maximum, bias), size)
    builder.add(kinds.Linear, y, (x,), weight=weight, bias=bias, **ending)
    return _program(f"linear_{seed}", builder, y)


def other(seed: int, kind: str, shape: tuple[int, ...], grid: Grid) -> IntegerProgram:
    """An operator as the random programs build it, on a large input, behind a layer that leaves channels last where there is one."""
    builder, x = _start(seed, shape, grid)
    if seed % 2 and len(shape) > 1:
        x = builder.like("max_pool", shape, x)
        ones = (1,) * (len(shape) - 1)
        window = {"kernel": ones, "stride": ones, "padding": ((0, 0),) * len(ones), "dilation": ones}
        builder.add(kinds.MaxPool, x, (builder.values[builder.inputs[0]],), **window)
    y = next(y for y in (BUILDERS[kind](builder) for _ in range(20)) if y is not None)
    return _program(f"{kind}_{seed}", builder, y)


PRODUCTS: dict[str, Callable[[], list[IntegerProgram]]] = {
    "conv": lambda: [
        *(conv(seed, bits, grid, (20, 41)) for seed, (bits, grid) in enumerate([(8, UINT8), (8, INT8), (4, UINT8), (3, INT8), (2, UINT4)])),
        conv(5, 8, UINT8, (16, 64), kernel=(1, 1), padding=((0, 0), (0, 0)), stride=(2, 2)),
        conv(6, 8, INT8, (24, 48), 3, dilation=(2, 1), padding=((2, 2), (1, 1))),
        conv(7, 4, UINT8, (40, 40), 40, stride=(2, 1)),
        conv(8, 8, INT8, (40, 40), 40, padding=((2, 0), (0, 2))),
        conv(9, 8, INT16, (5, 33)),
        conv(10, 16, UINT4, (5, 18)),
        conv(11, 3, UINT16, (40, 40), 40),
        conv(12, 3, INT8, (35, 35), 35, padding=((3, 3), (3, 3)), kernel=(4, 4)),
    ],
    "conv_transpose": lambda: [
        *(conv_transpose(seed, 8, (UINT8, INT8)[seed % 2], (12, 20), groups) for seed, groups in enumerate([1, 1, 2, 4])),
        conv_transpose(4, 4, INT8, (36, 36), 36),
        conv_transpose(5, 8, INT16, (6, 9)),
    ],
    "linear": lambda: [
        linear(0, 8, UINT8, (100,), 50),
        linear(1, 4, INT8, (7, 101), 40),
        linear(2, 2, UINT8, (3, 6, 33), 17),
        linear(3, 8, INT16, (5, 40), 20),
        linear(4, 3, INT8, (9, 75), 70),
        linear(5, 8, UINT8, (9, 5000), 20),
    ],
}
SHAPES = [((40, 9, 7), UINT8), ((35, 6, 5), INT8), ((33, 50), INT12), ((21, 4, 3, 5), UINT4), ((2, 8, 2), INT8), ((3, 5, 3), UINT8)]
OTHERS = sorted(set(OPERATORS) - {*PRODUCTS, "constant"})


def _with_codes(programs: list[IntegerProgram]) -> list[Any]:
    return [(program, random_codes(program, 6, seed)) for seed, program in enumerate(programs)]


def test_every_kind_of_operator_has_an_emitter_and_a_test() -> None:
    assert set(EMITTERS) == set(OPERATORS) | {RELAYOUT}
    assert {*PRODUCTS, *OTHERS, "constant"} == set(OPERATORS)


@pytest.mark.parametrize("flags", [BY_HAND, [*SANITIZED, "-DHS_PAD=4"], ["-O3", "-march=native"]], ids=["by hand", "plain", "fast"])
@pytest.mark.parametrize("kind", PRODUCTS)
def test_products(kind: str, flags: list[str], check_programs: Callable[..., Any]) -> None:
    check_programs(_with_codes(PRODUCTS[kind]()), flags)


@pytest.mark.parametrize("kind", OTHERS)
def test_others(kind: str, check_programs: Callable[..., Any]) -> None:
    """Random choices decide the form, so several of each; a constant takes part in those that read two tensors."""
    cases = _with_codes([other(seed, kind, *SHAPES[seed // 2 % len(SHAPES)]) for seed in range(2 * len(SHAPES))])
    for flags in (BY_HAND, ["-O2"], ["-O3", "-march=native"]):
        check_programs(cases, flags)
