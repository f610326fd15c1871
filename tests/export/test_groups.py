"""Weights with a scale for each group of inputs: what the file holds, what ONNX Runtime executes, and that both are what was simulated."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import helper, numpy_helper
from torch import Tensor, nn

import halfstep as hs
from halfstep.export.groups import GroupForm
from halfstep.export.session import executed_operators, open_session, run_session
from halfstep.graph.edges import behind_quantizer, quantizer_of
from halfstep.graph.edit import attribute
from halfstep.graph.operators import weighted_layers

FORMS: tuple[GroupForm, ...] = ("matmul_nbits", "matmul_nbits_int8", "qdq")
TYPES = [(sign + name, symmetric) for sign in ("", "u") for name in ("int2", "int3", "int4", "int8") for symmetric in (True, False)]


class Pair(nn.Module):
    """Linear layers of 40 and 24 inputs, on [N, C] or [N, T, C], one without a bias."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(40, 24), nn.Linear(24, 5, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.second(torch.tanh(self.first(x)))
        return found


def quantized(type_name: str, symmetric: bool, shape: tuple[int, ...] = (7, 40), size: int = 16, **scheme: object) -> hs.Result:
    torch.manual_seed(2)
    model, x = Pair().eval(), torch.randn(16, *shape)
    weights = {"type": type_name, "symmetric": symmetric, "group_size": size}
    content = {"weights": weights, "activations": {"type": "float"}} | scheme
    steps = ["place_quantizers", {"calibrate": {"weights": "min_max"}}, "round"]
    return hs.quantize(model, x, hs.Recipe.parse({"name": "groups", "scheme": content, "steps": steps}))


def weight_of(result: hs.Result, name: str) -> Tensor:
    layer = next(layer for layer in weighted_layers(result.model) if layer.name == name)
    return attribute(result.model, behind_quantizer(layer.weight))


def unpacked(name: str, model: onnx.ModelProto, bits: int) -> np.ndarray:
    """The unsigned codes of an initializer, along its last axis."""
    bytes_ = numpy_helper.to_array(next(t for t in model.graph.initializer if t.name == name))
    return np.stack([(bytes_ >> shift) & ((1 << bits) - 1) for shift in range(0, 8, bits)], -1).reshape(*bytes_.shape[:-1], -1)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(("type_name", "symmetric"), TYPES)
def test_every_type_is_executed_as_simulated(type_name: str, symmetric: bool, form: GroupForm, tmp_path: Path) -> None:
    """`hs.export.onnx` compares them (1e-3) and would raise; with float activations nothing is rounded at all: float32 sums of 40 terms.

    Where the kernel rounds its input to 8 bits in blocks, half a step in 127 of the largest input, and twice.
    """
    result = quantized(type_name, symmetric)
    check = hs.export.onnx(result, tmp_path / "model.onnx", groups=form)
    assert check.max_output_difference < (0.02 if form == "matmul_nbits_int8" else 1e-5)
    assert executed_operators(tmp_path / "model.onnx")["MatMulNBits"] == 2
    onnx.checker.check_model(onnx.load(tmp_path / "model.onnx"), full_check=form == "qdq")


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("shape", [(40,), (7, 40), (2, 3, 40)])
@pytest.mark.parametrize("size", [16, 32, 64])
def test_any_number_of_axes_and_a_group_that_is_not_full(shape: tuple[int, ...], size: int, form: GroupForm, tmp_path: Path) -> None:
    check = hs.export.onnx(quantized("int4", False, shape, size), tmp_path / "model.onnx", groups=form)
    assert check.max_output_difference < (0.02 if form == "matmul_nbits_int8" else 1e-5)
    assert executed_operators(tmp_path / "model.onnx")["MatMulNBits"] == 2


@pytest.mark.parametrize(
    ("type_name", "bits", "form"), [("int2", 4, "matmul_nbits"), ("int2", 2, "matmul_nbits_int8"), ("int3", 4, "matmul_nbits")]
)
@pytest.mark.parametrize("symmetric", [True, False])
def test_the_packed_codes_are_those_of_the_quantizer(type_name: str, bits: int, form: GroupForm, symmetric: bool, tmp_path: Path) -> None:
    """Read back as the operator's documentation has it, and dequantized by hand: bit for bit the simulated weight."""
    result = quantized(type_name, symmetric)
    hs.export.onnx(result, tmp_path / "model.onnx", groups=form)
    model = onnx.load(tmp_path / "model.onnx")
    nodes = [node for node in model.graph.node if node.op_type == "MatMulNBits"]
    for node, name in zip(nodes, ("first", "second"), strict=True):
        attributes = {a.name: helper.get_attribute_value(a) for a in node.attribute}
        weight = weight_of(result, name)
        assert (attributes["N"], attributes["K"]) == weight.shape
        assert (attributes["bits"], attributes["block_size"]) == (bits, 16)
        codes = unpacked(node.input[1], model, bits).astype(np.float32)
        scale = numpy_helper.to_array(next(t for t in model.graph.initializer if t.name == node.input[2]))
        assert (len(node.input) == 3) == symmetric
        points = np.full(scale.shape, 1 << (bits - 1)) if symmetric else unpacked(node.input[3], model, bits)[:, : scale.shape[1]]
        found = ((codes - points[..., None]) * scale[..., None]).reshape(len(scale), -1)[:, : weight.shape[1]]
        assert np.array_equal(found.astype(np.float32), weight.numpy())


def test_blocks_of_the_standard_form(tmp_path: Path) -> None:
    """The DequantizeLinear of ONNX's own reference implementation gives the simulated weight, transposed, bit for bit."""
    from onnx.reference import ReferenceEvaluator

    result = quantized("int4", False)
    hs.export.onnx(result, tmp_path / "model.onnx", groups="qdq")
    model = onnx.load(tmp_path / "model.onnx")
    nodes = [node for node in model.graph.node if node.op_type == "DequantizeLinear"]
    assert len(nodes) == 2
    for node, name in zip(nodes, ("first", "second"), strict=True):
        attributes = {a.name: a.i for a in node.attribute}
        assert (attributes["axis"], attributes["block_size"]) == (0, 16)
        tensors = {t.name: t for t in model.graph.initializer if t.name in node.input}
        assert tensors[node.input[0]].data_type == tensors[node.input[2]].data_type == onnx.TensorProto.INT4
        output = helper.make_tensor_value_info(node.output[0], onnx.TensorProto.FLOAT, None)
        alone = helper.make_graph([node], "alone", [], [output], list(tensors.values()))
        full = _without_a_short_block(alone, 16)
        found = ReferenceEvaluator(helper.make_model(full, opset_imports=[helper.make_opsetid("", 21)])).run(None, {})[0]
        weight = weight_of(result, name)
        assert np.array_equal(found[: weight.shape[1]].T, weight.numpy())


def _without_a_short_block(graph: onnx.GraphProto, size: int) -> onnx.GraphProto:
    """The codes filled up to whole blocks: the reference implementation takes no others."""
    codes = next(t for t in graph.initializer if t.name == graph.node[0].input[0])
    values = numpy_helper.to_array(codes).astype(np.int64)
    values = np.pad(values, ((0, -len(values) % size), (0, 0)))
    codes.CopyFrom(helper.make_tensor(codes.name, codes.data_type, values.shape, values.flatten().tolist()))
    return graph


def test_the_file_is_as_small_as_the_report_says(tmp_path: Path) -> None:
    """Of 4-bit codes without zero points: the report's bytes, and names and nodes besides; 2 bits are stored in 4 but for int8 kernels."""
    sizes = {}
    for type_name, form in (("int4", "matmul_nbits"), ("int2", "matmul_nbits"), ("int2", "matmul_nbits_int8")):
        torch.manual_seed(2)
        recipe = hs.Recipe.load("lattice-w4-g32").with_types(weights=type_name)
        result = hs.quantize(nn.Sequential(nn.Linear(1024, 512), nn.ReLU(), nn.Linear(512, 64)).eval(), torch.randn(8, 1024),
                             recipe.model_copy(update={"steps": ("place_quantizers", "calibrate", "round")}))  # fmt: skip
        hs.export.onnx(result, tmp_path / "model.onnx", groups=form)  # type: ignore[arg-type]
        sizes[type_name, form] = (tmp_path / "model.onnx").stat().st_size, result.record.bytes["quantized"]
    file, reported = sizes["int4", "matmul_nbits"]
    assert reported == (1024 * 512 + 512 * 64) * 5 // 8 + (512 + 64) * 4
    assert 0 < file - reported < 4000
    assert sizes["int2", "matmul_nbits"][0] == pytest.approx(file, abs=100)
    small, reported = sizes["int2", "matmul_nbits_int8"]
    assert 0 < small - reported < 4000


def test_quantized_activations_in_front_of_groups(tmp_path: Path) -> None:
    """Q and DQ in front of the products; every code of the activations is compared."""
    for form in FORMS:
        result = quantized("int4", True, activations={"type": "uint8"})
        check = hs.export.onnx(result, tmp_path / "model.onnx", groups=form)
        assert check.max_code_difference <= check.bound and check.num_edges == 3


def test_layers_without_groups_stay_as_they_are(tmp_path: Path) -> None:
    result = quantized("int4", True, overrides=[{"pattern": "second", "group_size": 0}])
    hs.export.onnx(result, tmp_path / "model.onnx")
    operators = [node.op_type for node in onnx.load(tmp_path / "model.onnx").graph.node]
    assert operators.count("MatMulNBits") == 1 and operators.count("DequantizeLinear") == 1


def test_a_weight_that_two_layers_share(tmp_path: Path) -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(32, 32)

        def forward(self, x: Tensor) -> Tensor:
            found: Tensor = self.layer(torch.relu(self.layer(x)))
            return found

    torch.manual_seed(0)
    recipe = hs.Recipe.load("nearest-w4").with_group_size(16)
    result = hs.quantize(Twice().eval(), torch.randn(9, 3, 32), recipe)
    for form in FORMS:
        check = hs.export.onnx(result, tmp_path / "model.onnx", groups=form)
        assert check.max_output_difference < (0.02 if form == "matmul_nbits_int8" else 1e-5)


def test_more_than_eight_bits_have_the_standard_form_alone(tmp_path: Path) -> None:
    check = hs.export.onnx(quantized("int16", True), tmp_path / "model.onnx")
    assert check.max_output_difference < 1e-5
    assert executed_operators(tmp_path / "model.onnx")["MatMulNBits"] == 0


def test_a_bias_is_added_by_the_kernel(tmp_path: Path) -> None:
    """Or by an Add that ONNX Runtime puts into it: none is executed."""
    for form in FORMS:
        hs.export.onnx(quantized("int4", True), tmp_path / "model.onnx", groups=form)
        assert executed_operators(tmp_path / "model.onnx")["Add"] == 0


def test_what_runs_is_what_was_saved(tmp_path: Path) -> None:
    """The file of a run directory, in a session of its own."""
    result = quantized("uint4", False)
    hs.export.onnx(result, tmp_path / "model.onnx")
    x = torch.randn(3, 7, 40, generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        expected = result.model(x).numpy()
    found = run_session(open_session(tmp_path / "model.onnx"), (x,))["output"]
    assert np.abs(found - expected).max() < 1e-5 * np.abs(expected).max()
    assert all(quantizer_of(layer.weight) is not None for layer in weighted_layers(result.model))
