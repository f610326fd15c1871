"""The memory plan: nothing overlaps, and the arena stays close to the least there can be."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from random_programs import programs

from halfstep.export.c99.layout import Place, row_major
from halfstep.export.c99.plan import Buffer, MemoryPlan, arrange, plan_memory
from halfstep.export.c99.steps import plan_steps
from halfstep.grid import Grid
from halfstep.integer import IntegerProgram, Value, check, rescale
from halfstep.integer.operators import AbstractOperator, Add, Concat, Conv, Mean, Requantize, Reshape

ONE = rescale(torch.tensor(1.0), "fixed_point_32")
UINT8 = Grid(8, False)


class _Network:
    """8-bit feature maps, a layer at a time."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        self.values = {"x": Value("x", shape, UINT8, 1.0)}
        self.operators: list[AbstractOperator] = []

    def add(self, shape: tuple[int, ...], kind: type, *inputs: str, **fields: object) -> str:
        name = f"{kind.__name__.lower()}_{len(self.operators)}"
        self.values[name] = Value(name, shape, UINT8, 1.0)
        self.operators.append(kind(name, inputs, name, **fields))
        return name

    def conv(self, x: str, channels: int, stride: int = 1) -> str:
        before, *places = self.values[x].shape
        shape = (channels, *[(n - 1) // stride + 1 for n in places])
        weight = torch.ones(channels, before, 3, 3, dtype=torch.int64)
        window = {"stride": (stride, stride), "padding": ((1, 1), (1, 1)), "dilation": (1, 1)}
        return self.add(
            shape, Conv, x, rescale=ONE, low=0, high=255, weight=weight, bias=torch.zeros(channels, dtype=torch.int64), **window
        )

    def sum(self, *inputs: str) -> str:
        return self.add(self.values[inputs[0]].shape, Add, *inputs, multipliers=(1,) * len(inputs), shift=0, low=0, high=255)

    def concat(self, *inputs: str) -> str:
        shape = (sum(self.values[name].shape[0] for name in inputs), *self.values[inputs[0]].shape[1:])
        return self.add(shape, Concat, *inputs, axis=0, rescales=(ONE,) * len(inputs), low=0, high=255)

    def program(self, output: str) -> IntegerProgram:
        return check(IntegerProgram("net", self.values, tuple(self.operators), ("x",), (output,)))


def _plan(program: IntegerProgram) -> MemoryPlan:
    values = program.values
    places = [[Place.of(values[name], row_major(len(values[name].shape))) for name in names] for names in (program.inputs, program.outputs)]
    return plan_memory(plan_steps(program), *places)


def _residual(num_blocks: int) -> IntegerProgram:
    net = _Network((3, 32, 32))
    x = net.conv("x", 16)
    for block in range(num_blocks):
        channels, stride = 16 << block // 3, 2 if block and block % 3 == 0 else 1
        shortcut = x if stride == 1 else net.conv(x, channels, 2)
        x = net.sum(net.conv(net.conv(x, channels, stride), channels), shortcut)
    pooled = net.add((net.values[x].shape[0], 1, 1), Mean, x, rescale=ONE, low=0, high=255, axes=(1, 2))
    return net.program(net.add((net.values[x].shape[0],), Reshape, pooled))


def _dense(num_layers: int) -> IntegerProgram:
    """Every layer reads all before it."""
    net = _Network((3, 17, 13))
    features = [net.conv("x", 7)]
    for _ in range(num_layers):
        features.append(net.conv(net.concat(*features) if len(features) > 1 else features[0], 5))
    return net.program(net.conv(net.concat(*features), 4))


def _branches(widths: tuple[int, ...]) -> IntegerProgram:
    """Inception-like: branches of different widths and depths, joined, three times."""
    net = _Network((3, 15, 15))
    x = net.conv("x", 9)
    for _ in range(3):
        parts = []
        for depth, width in enumerate(widths):
            part = x
            for _ in range(depth + 1):
                part = net.conv(part, width)
            parts.append(part)
        x = net.concat(*parts)
    return net.program(x)


NETWORKS = {"residual": _residual(9), "dense": _dense(8), "branches": _branches((3, 11, 6, 2)), "two": _branches((13, 5))}


@pytest.mark.parametrize("name", NETWORKS)
def test_within_a_fifth_of_the_largest_live_set(name: str) -> None:
    plan = _plan(NETWORKS[name])
    assert 0 < plan.largest_live_set <= plan.arena_bytes <= 1.2 * plan.largest_live_set
    # The live sets are what they are by hand: all inputs and the output of a step, and its columns, none of them larger than the whole.
    steps = plan_steps(NETWORKS[name])
    for step, live, scratch in zip(steps, plan.live_bytes, plan.scratch_bytes, strict=True):
        own = {plan.offsets[place]: place.num_bytes for place in (*step.inputs, step.output) if place in plan.offsets}
        assert live >= sum(own.values()) + scratch


def test_residual_by_hand() -> None:
    """The block's input, its first convolution and its second, 16 KiB each; four columns of 144 codes, and eight rows of weights of 2 bits,
    which are unpacked. The sum is in place.
    """
    plan = _plan(_residual(3))
    assert plan.largest_live_set == 3 * 16 * 32 * 32 + (4 + 8) * 144
    assert plan.in_place.count(0) == 3


@given(programs())
@settings(deadline=None, max_examples=60)
def test_random_programs_keep_within_the_bound(program: IntegerProgram) -> None:
    plan = _plan(program)
    assert plan.largest_live_set <= plan.arena_bytes <= 1.2 * plan.largest_live_set


@given(st.lists(st.tuples(st.integers(1, 5000), st.integers(0, 12), st.integers(0, 4)), max_size=25))
@settings(deadline=None, max_examples=60)
def test_buffers_alive_together_never_overlap(drawn: list[tuple[int, int, int]]) -> None:
    buffers = [Buffer(size, first, first + length) for size, first, length in drawn]
    offsets, size = arrange(buffers, 0)
    for index, one in enumerate(buffers):
        assert 0 <= offsets[index] <= size - one.num_bytes
        assert offsets[index] % one.alignment == 0
        for other, at in zip(buffers[:index], offsets, strict=False):
            assert not one.meets(other) or at + other.num_bytes <= offsets[index] or offsets[index] + one.num_bytes <= at


def test_what_is_written_over_is_not_read_again() -> None:
    """A sum takes over the memory of an operand only where nothing reads that one later."""
    net = _Network((4, 6, 6))
    one, other = net.conv("x", 4), net.conv("x", 4)
    first = net.sum(one, other)
    late = net.add((4, 6, 6), Requantize, one, rescale=ONE, low=0, high=255)
    program = net.program(net.conv(net.sum(first, late), 2))
    plan, steps = _plan(program), plan_steps(program)
    by_name = {step.output.value.name: (step, place) for step, place in zip(steps, plan.in_place, strict=True)}
    assert by_name[first][1] == 1  # `one` is read again, `other` is not
    assert by_name[late][1] == 0


def test_inputs_are_never_written() -> None:
    net = _Network((5, 6))
    program = net.program(net.add((5, 6), Requantize, "x", rescale=ONE, low=0, high=255))
    assert _plan(program).in_place == (None,)
    assert _plan(program).arena_bytes == 0
