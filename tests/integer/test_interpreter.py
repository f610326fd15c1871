"""The interpreter against a slow NumPy reference written from the formulas, the bounds it relies on, and what surrounds a run."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from random_programs import programs, random_codes, random_program
from reference import EVALUATE, evaluate

from halfstep.errors import DataError
from halfstep.grid import Grid
from halfstep.integer import IntegerProgram, Value, check, dequantize_outputs, quantize_inputs, run
from halfstep.integer.interpreter import BATCH_SIZE, run_operators
from halfstep.integer.operators import OPERATORS, Add, Conv, ConvTranspose, Linear, Matmul
from halfstep.integer.requantization import exact_power


def test_every_operator_has_a_reference() -> None:
    assert set(EVALUATE) == set(OPERATORS)


def _assert_equal_to_reference(program: IntegerProgram, seed: int) -> None:
    inputs = random_codes(program, 4, seed)
    wanted = evaluate(program, [x.numpy().astype(np.int64) for x in inputs])
    seen: dict[str, torch.Tensor] = {}
    outputs = run(program, inputs, seen.__setitem__)
    assert set(seen) == set(program.values) == set(wanted)
    for name, codes in seen.items():
        assert np.array_equal(np.broadcast_to(codes.numpy(), wanted[name].shape), wanted[name]), name
    for name, codes in zip(program.outputs, outputs, strict=True):
        assert np.array_equal(codes.numpy(), wanted[name])


@pytest.mark.parametrize("start", range(0, 200, 50))
def test_equal_to_the_reference(start: int) -> None:
    for seed in range(start, start + 50):
        _assert_equal_to_reference(random_program(seed), seed)


@given(programs(), st.integers(0, 2**31 - 1))
@settings(deadline=None, max_examples=50)
def test_equal_to_the_reference_shrinking(program: IntegerProgram, seed: int) -> None:
    _assert_equal_to_reference(program, seed)


@pytest.mark.slow
@pytest.mark.parametrize("start", range(1000, 5000, 500))
def test_equal_to_the_reference_on_thousands(start: int) -> None:
    for seed in range(start, start + 500):
        _assert_equal_to_reference(random_program(seed), seed)


@given(st.data())
@settings(deadline=None, max_examples=60)
def test_the_bounds_of_an_accumulator_hold_and_are_reached(data: st.DataObject) -> None:
    """Every partial sum, in any order, of the sample that drives it furthest; where no sign can cancel, it reaches the bound."""
    bits, is_signed = data.draw(st.integers(2, 8)), data.draw(st.booleans())
    shape = data.draw(st.tuples(st.integers(1, 4), st.integers(1, 6)))
    generator = torch.Generator().manual_seed(data.draw(st.integers(0, 2**31 - 1)))
    weight = torch.randint(-128, 128, shape, generator=generator)
    bias = torch.randint(-1000, 1000, shape[:1], generator=generator)
    values = {"x": Value("x", shape[1:], Grid(bits, is_signed), 1.0), "y": Value("y", shape[:1], Grid(32, True), 1.0)}
    layer = Linear("layer", ("x",), "y", exact_power(0), -(2**31), 2**31 - 1, weight, bias)
    low, high = layer.accumulator_bounds(values)
    reached = [0]
    for row, start in zip(weight, bias, strict=True):
        for end in (values["x"].grid.minimum, values["x"].grid.maximum):
            other = values["x"].grid.minimum + values["x"].grid.maximum - end
            codes = torch.where(row > 0, end, other)
            terms = torch.cat([start[None], codes * row])
            for _ in range(5):
                partial = terms[torch.randperm(len(terms), generator=generator)].cumsum(0)
                assert low <= int(partial.min()) <= int(partial.max()) <= high
            reached += [int(terms[terms > 0].sum()), int(terms[terms < 0].sum())]
    assert (min(reached), max(reached)) == (low, high)


@pytest.mark.parametrize("seed", range(60))
def test_the_bounds_hold_for_what_random_programs_reach(seed: int) -> None:
    """The accumulator itself, read out by an identity in place of the rescale."""
    program = random_program(seed)
    inputs = random_codes(program, 6, seed)
    codes = dict(zip(program.inputs, inputs, strict=True))
    computed = run_operators(program, codes)
    for operator in program.operators:
        if not isinstance(operator, (Conv, ConvTranspose, Linear, Matmul)):
            continue
        sums = _accumulator(operator, [codes.get(name, computed.get(name)) for name in operator.inputs], program)
        low, high = operator.accumulator_bounds(program.values)
        assert low <= int(sums.min()) <= int(sums.max()) <= high


def _accumulator(
    operator: Conv | ConvTranspose | Linear | Matmul, given: list[torch.Tensor | None], program: IntegerProgram
) -> torch.Tensor:
    wide = Value(operator.output, program.values[operator.output].shape, Grid(32, True), 1.0)
    plain = dataclasses.replace(operator, rescale=exact_power(0), low=-(2**31), high=2**31 - 1)
    return plain.run([codes for codes in given if codes is not None], {**program.values, operator.output: wide})


@pytest.mark.parametrize("count", [2**8, 2**8 + 1, 2**10])
@pytest.mark.parametrize("is_conv", [False, True])
def test_sums_around_2_to_the_24_are_exact(count: int, is_conv: bool) -> None:
    """255 * 257 * 256 is just below 2^24: float32 is taken. One more term, and float64 has to be; odd sums would tell."""
    grid = Grid(8, False)
    weight = torch.full((3, count), 257)
    weight[1, ::2], weight[2] = -257, torch.arange(count) % 515 - 257
    values = {"x": Value("x", (count,), grid, 1.0), "y": Value("y", (3,), Grid(32, True), 1.0)}
    bias = torch.tensor([1, -1, 0])
    ending = (exact_power(0), -(2**31), 2**31 - 1)
    operator: Linear | Conv = Linear("layer", ("x",), "y", *ending, weight, bias)
    x = torch.stack([torch.full((count,), 255), 255 - torch.arange(count) % 2, torch.arange(count) % 256]).to(torch.int32)
    if is_conv:
        operator = Conv("layer", ("x",), "y", *ending, weight[:, :, None], bias, (1,), ((0, 0),), (1,))
        values = {"x": Value("x", (count, 1), grid, 1.0), "y": Value("y", (3, 1), Grid(32, True), 1.0)}
    program = check(IntegerProgram("net", values, (operator,), ("x",), ("y",)))
    made = run(program, (x[..., None] if is_conv else x,))[0].view(3, 3)
    assert torch.equal(made.long(), x.long() @ weight.T + bias)


def test_a_convolution_of_every_float32_integer() -> None:
    """Two-dimensional, many channels, sums close to 2^24 on both sides: no kernel of PyTorch takes a short cut that rounds."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randint(0, 256, (2, 16, 12, 12), generator=generator)
    weight = torch.randint(-1200, 1201, (16, 16, 3, 3), generator=generator)
    shapes = {"x": (16, 12, 12), "y": (16, 12, 12)}
    values = {"x": Value("x", shapes["x"], Grid(8, False), 1.0), "y": Value("y", shapes["y"], Grid(32, True), 1.0)}
    operator = Conv(
        "layer", ("x",), "y", exact_power(0), -(2**31), 2**31 - 1, weight, torch.zeros(16).long(), (1, 1), ((1, 1),) * 2, (1, 1)
    )
    low, high = operator.accumulator_bounds(values)
    assert 2**23 < max(-low, high) < 2**24
    made = run(IntegerProgram("net", values, (operator,), ("x",), ("y",)), (x,))[0]
    columns = torch.nn.functional.unfold(x.double(), 3, padding=1)
    exact = (weight.flatten(1).double() @ columns).view(2, 16, 12, 12).long()
    assert torch.equal(made.long(), exact)


def test_an_addition_of_wide_codes_needs_64_bits() -> None:
    wide = Grid(32, True)
    values = {name: Value(name, (1,), wide, 1.0) for name in "abc"}
    operator = Add("add", ("a", "b"), "c", (2**14, -(2**14)), 15, -(2**31), 2**31 - 1)
    program = check(IntegerProgram("net", values, (operator,), ("a", "b"), ("c",)))
    ends = torch.tensor([[-(2**31)], [2**31 - 1], [3]], dtype=torch.int32)
    made = run(program, (ends, ends.flip(0)))[0]
    pairs = zip(ends.flatten().tolist(), ends.flip(0).flatten().tolist(), strict=True)
    assert made.flatten().tolist() == [(a * 2**14 - b * 2**14 + 2**14) >> 15 for a, b in pairs]


@pytest.mark.parametrize("size", [1, BATCH_SIZE - 1, BATCH_SIZE, BATCH_SIZE + 1, 3 * BATCH_SIZE])
def test_batches_of_any_size(size: int) -> None:
    program = random_program(11)
    inputs = random_codes(program, size, 0)
    whole = run(program, inputs)
    single = [run(program, tuple(x[index : index + 1] for x in inputs)) for index in range(size)]
    for index, output in enumerate(whole):
        assert len(output) == size
        assert torch.equal(output, torch.cat([part[index] for part in single]))


def test_inputs_stay_as_they_are() -> None:
    for seed in range(30):
        program = random_program(seed)
        inputs = random_codes(program, 3, seed)
        copies = tuple(x.clone() for x in inputs)
        run(program, inputs)
        assert all(torch.equal(a, b) for a, b in zip(inputs, copies, strict=True))


def test_real_numbers_to_codes_and_back() -> None:
    values = {"x": Value("x", (5,), Grid(4, True, symmetric=False), 0.5, 3)}
    program = IntegerProgram("net", values, (), ("x",), ("x",))
    codes = quantize_inputs(program, (torch.tensor([[-100.0, -0.25, 0.25, 0.75, 100.0]]),))
    assert codes[0].tolist() == [[-8, 3, 3, 5, 7]]  # halves to even
    assert codes[0].dtype == torch.int32
    assert dequantize_outputs(program, run(program, codes))[0].tolist() == [[-5.5, 0.0, 0.0, 1.0, 2.0]]


def test_inputs_that_do_not_fit() -> None:
    program = random_program(1)
    inputs = random_codes(program, 2, 0)
    with pytest.raises(DataError, match="The program takes"):
        run(program, (*inputs, inputs[0]))
    with pytest.raises(DataError, match="must have the shape"):
        run(program, (inputs[0][..., None], *inputs[1:]))
    with pytest.raises(DataError, match="must have the shape"):
        run(program, tuple(x[:0] for x in inputs))
