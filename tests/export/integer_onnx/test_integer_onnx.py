"""Integer programs as ONNX: no float in the file, and the interpreter's codes from ONNX Runtime and from ONNX's own reference."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx.reference import ReferenceEvaluator
from random_programs import programs, random_codes, random_program

from halfstep.export.integer_onnx import WRITERS, export_onnx_integer
from halfstep.export.integer_onnx.verify import NUM_SAMPLES, in_file
from halfstep.export.session import executed_operators
from halfstep.grid import Grid
from halfstep.integer import IntegerProgram, Value, check, rescale, run
from halfstep.integer.operators import OPERATORS, Add, Conv, ConvTranspose, Linear, Matmul, MaxPool, Pad, Requantize
from halfstep.integer.requantization import exact_power

INTEGERS = {getattr(onnx.TensorProto, f"{sign}INT{bits}") for sign in ("", "U") for bits in (8, 16, 32, 64)}
NO_FLOATS = {*INTEGERS, onnx.TensorProto.BOOL}
INT8, UINT8, INT16, INT32 = Grid(8, True), Grid(8, False), Grid(16, True), Grid(32, True)


def _export(program: IntegerProgram, folder: Path, seed: int = 0, num_samples: int = 4) -> onnx.ModelProto:
    """Written and, by the export itself, equal to the interpreter; the file is looked over."""
    done = export_onnx_integer(program, folder / "net.onnx", random_codes(program, num_samples, seed))
    model = onnx.load(folder / "net.onnx")
    assert done.path == folder / "net.onnx"
    assert done.num_samples == num_samples
    assert done.num_codes == num_samples * sum(program.values[name].size for name in program.outputs)
    assert (done.num_nodes, done.num_bytes) == (len(model.graph.node), (folder / "net.onnx").stat().st_size)
    return model


def _types(model: onnx.ModelProto) -> set[int]:
    """The element types of every tensor in the file, inferred where they are not written down."""
    graph = onnx.shape_inference.infer_shapes(model, check_type=True, strict_mode=True).graph
    declared = [*graph.input, *graph.output, *graph.value_info]
    named = {value.name for value in declared} | {tensor.name for tensor in graph.initializer}
    assert {output for node in graph.node for output in node.output} <= named
    return {value.type.tensor_type.elem_type for value in declared} | {tensor.data_type for tensor in graph.initializer}


def test_every_kind_is_written() -> None:
    assert set(WRITERS) == set(OPERATORS)


@pytest.mark.parametrize("kind", list(OPERATORS))
def test_each_kind(kind: str, tmp_path: Path) -> None:
    """The first two random programs that hold it; every tensor of the file holds integers, or truth values between them."""
    chosen = (program for program in map(random_program, range(1000)) if any(op.kind == kind for op in program.operators))
    for _ in range(2):
        model = _export(next(chosen), tmp_path)
        onnx.checker.check_model(model, full_check=True)
        assert _types(model) <= NO_FLOATS


def test_a_hundred_random_programs(tmp_path: Path) -> None:
    for seed in range(100):
        model = _export(random_program(seed), tmp_path, seed)
        assert {tensor.data_type for tensor in model.graph.initializer} <= NO_FLOATS


@given(programs(), st.integers(0, 2**31 - 1))
@settings(deadline=None, max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_shrinking_programs(tmp_path: Path, program: IntegerProgram, seed: int) -> None:
    _export(program, tmp_path, seed)


@pytest.mark.slow
@pytest.mark.parametrize("start", range(1000, 3500, 500))
def test_thousands_of_random_programs(start: int, tmp_path: Path) -> None:
    for seed in range(start, start + 500):
        model = _export(random_program(seed), tmp_path, seed)
        assert _types(model) <= NO_FLOATS


@pytest.mark.parametrize("start", range(0, 60, 20))
def test_equal_in_the_reference_of_onnx(start: int, tmp_path: Path) -> None:
    """What the standard says the file computes, not only what one runtime makes of it."""
    for seed in range(start, start + 20):
        program = random_program(seed)
        if any(isinstance(operator, MaxPool) and _is_lopsided(operator) for operator in program.operators):
            continue
        codes = random_codes(program, 3, seed)
        evaluator = ReferenceEvaluator(_export(program, tmp_path, seed))
        given_codes = {name: x.numpy() for name, x in zip(program.inputs, in_file(program, codes), strict=True)}
        for wanted, found in zip(run(program, codes), evaluator.run(None, given_codes), strict=True):
            assert np.array_equal(wanted.numpy(), found)


def _is_lopsided(pool: MaxPool) -> bool:
    """ONNX's reference fails with an index beyond the end where a frame is two wider on one side."""
    return any(abs(before - after) > 1 for before, after in pool.padding)


def test_the_form_of_the_file(tmp_path: Path) -> None:
    """Opset 21, IR 10, the user's names, a free batch, the smallest type for every input and output."""
    grids = {"a": Grid(4, False), "b.c": Grid(8, True), "d": Grid(12, True), "e": Grid(16, False), "f": INT32}
    values = {name: Value(name, (3,), grid, 1.0) for name, grid in grids.items()}
    model = _export(IntegerProgram("net", values, (), tuple(grids), tuple(reversed(grids))), tmp_path)
    assert (model.opset_import[0].version, model.ir_version, model.producer_name) == (21, 10, "halfstep")
    types = [onnx.TensorProto.DataType.Name(value.type.tensor_type.elem_type) for value in model.graph.input]
    assert types == ["UINT8", "INT8", "INT16", "UINT16", "INT32"]
    assert [value.name for value in model.graph.input] == list(grids)
    assert [value.name for value in model.graph.output] == ["output", "output_1", "output_2", "output_3", "output_4"]
    shapes = [[axis.dim_param or axis.dim_value for axis in value.type.tensor_type.shape.dim] for value in model.graph.output]
    assert shapes == [["batch", 3]] * 5


def test_names_that_meet(tmp_path: Path) -> None:
    """A network may call its tensors what the file calls its own, or take and give the same tensor twice."""
    values = {name: Value(name, (2,), INT8, 1.0) for name in ("output", "output_1", "output:Cast", "x")}
    ending = (rescale(torch.tensor(0.3), "fixed_point_32"), -128, 127)
    operators = (
        Requantize("output", ("output",), "output:Cast", *ending),
        Requantize("output", ("output:Cast",), "output_1", *ending),
        Requantize("x", ("output_1",), "x", *ending),
    )
    program = check(IntegerProgram("net", values, operators, ("output",), ("x", "output_1", "x", "output")))
    model = _export(program, tmp_path)
    assert [value.name for value in model.graph.output] == ["output", "output_1", "output_2", "output_3"]


def test_any_batch(tmp_path: Path) -> None:
    program = random_program(12)
    for size in (1, 31, 33, 70):
        _export(program, tmp_path, num_samples=size)


def test_random_codes_where_none_are_given(tmp_path: Path) -> None:
    done = export_onnx_integer(random_program(4), tmp_path / "net.onnx")
    assert done.num_samples == NUM_SAMPLES


def _one(operator: Conv | ConvTranspose | Linear | MaxPool, x: Value, y: Value) -> IntegerProgram:
    return check(IntegerProgram("net", {"x": x, "y": y}, (operator,), ("x",), ("y",)))


@pytest.mark.parametrize("bits", [8, 16, 20])
@pytest.mark.parametrize("is_signed", [False, True])
@pytest.mark.parametrize("weight_bits", [8, 11])
def test_codes_and_weights_of_several_bytes(bits: int, is_signed: bool, weight_bits: int, tmp_path: Path) -> None:
    """One to three bytes of a code times one or two of a weight, at an odd zero point, in a frame of it."""
    grid = Grid(bits, is_signed, symmetric=False)
    x, y = Value("x", (2, 5), grid, 1.0, grid.minimum + 77), Value("y", (3, 4), INT32, 1.0)
    reach = min(2 ** (weight_bits - 1), 2 ** (30 - bits) // 6)
    weight = torch.randint(-reach, reach, (3, 2, 3), generator=torch.Generator().manual_seed(bits))
    start, bias = ("layer", ("x",), "y", exact_power(0), -(2**31), 2**31 - 1), torch.tensor([1, 0, -5])
    _export(_one(Conv(*start, weight, bias, (1,), ((0, 1),), (1,)), x, y), tmp_path)
    turned, wide = weight.transpose(0, 1).contiguous(), Value("y", (3, 10), INT32, 1.0)
    _export(_one(ConvTranspose(*start, turned, bias, (2,), (1,), (1,), (1,)), x, wide), tmp_path)
    matrix = weight[:, 0, :2].repeat(1, 3)[:, :5]
    _export(_one(Linear(*start, matrix, bias), x, Value("y", (2, 3), INT32, 1.0)), tmp_path)


@pytest.mark.parametrize("grids", [(UINT8, INT8), (INT8, UINT8), (INT8, INT8), (Grid(12, True), Grid(13, False)), (INT8, INT16)])
def test_matrix_products_of_any_two_grids(grids: tuple[Grid, Grid], tmp_path: Path) -> None:
    values = {"a": Value("a", (2, 3, 5), grids[0], 1.0, grids[0].minimum + 3), "b": Value("b", (1, 5, 4), grids[1], 1.0, grids[1].maximum)}
    product = Matmul("product", ("a", "b"), "y", exact_power(0), -(2**31), 2**31 - 1)
    program = check(IntegerProgram("net", {**values, "y": Value("y", (2, 3, 4), INT32, 1.0)}, (product,), ("a", "b"), ("y",)))
    model = _export(program, tmp_path)
    # No signed second operand: x86 without VNNI would add its products in 16 bits.
    types = {value.name: value.type.tensor_type.elem_type for value in onnx.shape_inference.infer_shapes(model).graph.value_info}
    types |= {value.name: value.type.tensor_type.elem_type for value in model.graph.input}
    seconds = [types[node.input[1]] for node in model.graph.node if node.op_type == "MatMulInteger"]
    assert seconds
    assert set(seconds) == {onnx.TensorProto.UINT8}


def test_weights_are_stored_unsigned(tmp_path: Path) -> None:
    x, y = Value("x", (2, 5), UINT8, 1.0), Value("y", (3, 5), INT8, 1.0)
    weight = torch.randint(-128, 128, (3, 2, 3), generator=torch.Generator().manual_seed(0))
    ending = (rescale(torch.tensor(0.01), "fixed_point_32"), -128, 127)
    model = _export(_one(Conv("layer", ("x",), "y", *ending, weight, torch.zeros(3).long(), (1,), ((1, 1),), (1,)), x, y), tmp_path)
    stored = {tensor.name: tensor for tensor in model.graph.initializer}
    (node,) = [node for node in model.graph.node if node.op_type == "ConvInteger"]
    assert np.array_equal(onnx.numpy_helper.to_array(stored[node.input[1]]).astype(int) - 128, weight.numpy())
    assert onnx.numpy_helper.to_array(stored[node.input[3]]) == 128


@pytest.mark.parametrize("number", [2**31 - 1, 2**31, 2**31 + 1, 2**32 - 1, 2**32, 2**33, -(2**31), -(2**31) - 1, -(2**32)])
def test_clamped_numbers_beyond_32_bits(number: int, tmp_path: Path) -> None:
    """ONNX Runtime's Clip of int64 leaves some of them as they are, 2^31 for one."""
    values = {name: Value(name, (1,), INT32, 1.0) for name in ("a", "b")} | {"y": Value("y", (1,), INT8, 1.0, 5)}
    add = Add("add", ("a", "b"), "y", (4, 1), 0, -100, 100)
    program = check(IntegerProgram("net", values, (add,), ("a", "b"), ("y",)))
    a = max(-(2**31), min(2**31 - 1, number // 4))
    codes = (torch.tensor([[a]]), torch.tensor([[number - 4 * a]]))
    export_onnx_integer(program, tmp_path / "net.onnx", tuple(x.to(torch.int32) for x in codes))
    assert run(program, codes)[0].item() == (100 if number > 0 else -100)


@pytest.mark.parametrize("grid", [INT8, UINT8, INT16, INT32])
def test_max_pooling_behind_a_frame_of_zeros(grid: Grid, tmp_path: Path) -> None:
    """ONNX Runtime would draw a plain Pad into the pooling, where the padding counts for nothing; here negative codes lose to a zero."""
    values = {"x": Value("x", (1, 4), grid, 1.0), "p": Value("p", (1, 8), grid, 1.0), "y": Value("y", (1, 4), grid, 1.0)}
    operators = (Pad("frame", ("x",), "p", ((0, 0), (2, 2))), MaxPool("pool", ("p",), "y", (2,), (2,), ((0, 0),), (1,)))
    program = check(IntegerProgram("net", values, operators, ("x",), ("y",)))
    codes = torch.tensor([[[-7, -3, -9, -1]], [[1, 2, 3, 4]]], dtype=torch.int32).clamp(min=grid.minimum)
    export_onnx_integer(program, tmp_path / "net.onnx", (codes,))
    assert run(program, (codes,))[0][0].tolist() == [[0, codes[0, 0, :2].max(), codes[0, 0, 2:].max(), 0]]


def test_a_pooling_padded_as_wide_as_its_windows(tmp_path: Path) -> None:
    """ONNX Runtime's MaxPool refuses it, dilated or not."""
    x, y = Value("x", (1, 6), INT8, 1.0), Value("y", (1, 7), INT8, 1.0)
    model = _export(_one(MaxPool("pool", ("x",), "y", (2,), (1,), ((2, 2),), (3,)), x, y), tmp_path)
    assert "MaxPool" not in [node.op_type for node in model.graph.node]


def test_the_executed_operators(tmp_path: Path) -> None:
    """After all of ONNX Runtime's optimizations: integer products, and nothing that works on floats."""
    x, y = Value("x", (2, 5, 5), UINT8, 1.0, 3), Value("y", (3, 5, 5), UINT8, 1.0, 9)
    weight = torch.randint(-8, 8, (3, 2, 3, 3), generator=torch.Generator().manual_seed(0))
    ending = (rescale(torch.tensor([0.01, 0.2, 0.003]), "fixed_point_32"), 9, 255)
    conv = Conv("layer", ("x",), "y", *ending, weight, torch.zeros(3).long(), (1, 1), ((1, 1), (1, 1)), (1, 1))
    _export(_one(conv, x, y), tmp_path)
    found = executed_operators(tmp_path / "net.onnx")
    assert set(found) <= {"ConvInteger", "Cast", "Mul", "Add", "BitShift", "Clip", "Identity"}
    assert (found["ConvInteger"], found["Mul"], found["BitShift"], found["Clip"]) == (1, 1, 1, 1)


def test_an_accumulator_that_is_the_output_needs_no_arithmetic(tmp_path: Path) -> None:
    x, y = Value("x", (5,), UINT8, 1.0), Value("y", (3,), INT32, 1.0)
    weight = torch.randint(-8, 8, (3, 5), generator=torch.Generator().manual_seed(0))
    linear = Linear("layer", ("x",), "y", exact_power(0), -(2**31), 2**31 - 1, weight, torch.tensor([3, 4, 5]))
    model = _export(_one(linear, x, y), tmp_path)
    assert [node.op_type for node in model.graph.node] == ["MatMulInteger", "Add", "Identity"]
