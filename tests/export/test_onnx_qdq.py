"""Exported files: sound, small, verified, and the same numbers in ONNX Runtime as in the simulation."""

from __future__ import annotations

import functools
import tempfile
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto
from torch import Tensor, nn

import halfstep as hs
import zoo
from halfstep.errors import ExportError
from halfstep.export.onnx_qdq import export_onnx
from halfstep.export.session import open_session, run_session
from halfstep.export.verify import BOUND, verify
from halfstep.graph.edit import tensor_named
from halfstep.graph.run import run
from halfstep.report.record import ExportCheck
from halfstep.targets import Target

MEMBERS = [name if name in zoo.REPRESENTATIVE else pytest.param(name, marks=pytest.mark.slow) for name in zoo.NAMES]
FOLDER = tempfile.TemporaryDirectory(prefix="halfstep-test-")


@functools.cache
def exported(name: str, recipe: str = "int8") -> tuple[Path, ExportCheck]:
    """The file of a zoo network, made once."""
    path = Path(FOLDER.name) / f"{name}-{recipe}.onnx"
    result = zoo.quantized(name, recipe)
    return path, export_onnx(result.model, path, result.samples)


def initializers(model: onnx.ModelProto) -> dict[str, onnx.TensorProto]:
    return {tensor.name: tensor for tensor in model.graph.initializer}


@pytest.mark.parametrize("name", MEMBERS)
def test_sound_and_verified(name: str) -> None:
    path, check = exported(name)
    model = onnx.load(path)
    onnx.checker.check_model(model, full_check=True)
    assert [(entry.domain, entry.version) for entry in model.opset_import if entry.domain in ("", "ai.onnx")] == [("", 21)]
    assert {node.domain for node in model.graph.node} <= {"", "ai.onnx"}
    assert check.max_code_difference <= BOUND == check.bound
    assert check.num_edges > 0 and check.num_samples == zoo.NUM_SAMPLES
    assert check.top1_agreement >= 0.9
    # A single code that falls the other way is 1/255 of one tensor's range; a few of them in a row stay below 5 % of the output.
    assert check.max_output_difference <= 0.05


@pytest.mark.parametrize("name", MEMBERS)
def test_onnx_runtime_returns_what_the_simulation_returns(name: str) -> None:
    """On inputs that neither calibration nor verification saw."""
    path, _ = exported(name)
    graph, inputs = zoo.quantized(name).model, zoo.ZOO[name].inputs(seed=9)
    outputs = [torch.from_numpy(output) for output in run_session(open_session(path), inputs).values()]
    for output, expected in zip(outputs, zoo.leaves(run(graph, inputs)), strict=True):
        assert zoo.relative(output, expected) <= 0.05  # as above


@pytest.mark.parametrize("name", MEMBERS)
def test_integers_are_stored_as_integers(name: str) -> None:
    """Every parameter that has a quantizer: int8 weights, int32 biases; and nothing of the user's machine."""
    path, _ = exported(name)
    model = onnx.load(path)
    stored = initializers(model)
    result = zoo.quantized(name)
    for layer in result.record.layers:
        if layer.weight is not None:
            path = f"{layer.name.split('#')[0]}.weight"
            assert path in stored, f"{path} is not stored under its name: is it in float?"
            weight = stored[path]
            assert weight.data_type == TensorProto.INT8 and weight.name + ".scale" in stored
    for tensor in stored.values():
        if tensor.name.endswith(".bias") and tensor.name + ".scale" in stored:
            assert tensor.data_type == TensorProto.INT32
    text = str(model)
    assert not model.metadata_props and not any(node.metadata_props or node.doc_string for node in model.graph.node)
    assert "/work" not in text and "site-packages" not in text and ".py" not in text and str(Path.home()) not in text


def test_a_nibble_a_weight() -> None:
    """w4a8: int4 in the file, cast to int8 before it is dequantized; the first and last layer in int8."""
    path, check = exported("residual", "w4a8")
    model = onnx.load(path)
    onnx.checker.check_model(model, full_check=True)
    stored = initializers(model)
    assert check.max_code_difference <= BOUND
    assert stored["conv1.weight"].data_type == stored["fc.weight"].data_type == TensorProto.INT8
    for name in ("conv2.weight", "conv3.weight"):
        assert stored[name].data_type == TensorProto.INT4
        assert len(stored[name].raw_data) == 8 * 8 * 9 // 2
        (user,) = [node for node in model.graph.node if name in node.input]
        assert user.op_type == "Cast" and user.attribute[0].i == TensorProto.INT8
        (after,) = [node for node in model.graph.node if user.output[0] in node.input]
        assert after.op_type == "DequantizeLinear"


def test_codes_are_those_of_the_simulation() -> None:
    path, _ = exported("residual")
    stored, graph = initializers(onnx.load(path)), zoo.quantized("residual").model
    codes, scale = onnx.numpy_helper.to_array(stored["conv2.weight"]), onnx.numpy_helper.to_array(stored["conv2.weight.scale"])
    real = tensor_named(graph, "conv2.weight").detach().numpy()
    assert np.array_equal(codes.astype(np.float32) * scale.reshape(-1, 1, 1, 1), real)
    assert np.abs(codes).max() == 127  # the grid is used to its end, and narrow


def test_a_dictionary_of_outputs_in_its_order() -> None:
    path, _ = exported("dict_output")
    inputs = zoo.ZOO["dict_output"].inputs(3)
    outputs = list(run_session(open_session(path), inputs).values())
    assert [output.shape for output in outputs] == [(3, 4), (3, 6, 4, 4)]


@pytest.mark.parametrize("name", ["residual", "two_inputs", "attention"])
@pytest.mark.parametrize("batch_size", [1, 5])
def test_any_batch_size(name: str, batch_size: int) -> None:
    path, _ = exported(name)
    inputs = zoo.ZOO[name].inputs(batch_size, seed=2)
    output = torch.from_numpy(next(iter(run_session(open_session(path), inputs).values())))
    assert zoo.relative(output, run(zoo.quantized(name).model, inputs)) <= 0.05


def test_inputs_keep_the_users_names() -> None:
    session = open_session(exported("two_inputs")[0])
    assert [value.name for value in session.get_inputs()] == ["x", "y"]


@pytest.mark.parametrize("name", ["residual", "transposed"])
def test_a_float_network(name: str, tmp_path: Path) -> None:
    graph, inputs = zoo.captured(name), zoo.ZOO[name].inputs(8)
    check = export_onnx(graph, tmp_path / "float.onnx", inputs)
    onnx.checker.check_model(onnx.load(tmp_path / "float.onnx"), full_check=True)
    assert (check.num_edges, check.max_code_difference) == (0, 0)
    assert check.max_output_difference <= 1e-5  # float32 sums of some 10^2 terms in another order
    assert not [node.op_type for node in onnx.load(tmp_path / "float.onnx").graph.node if "Quantize" in node.op_type]


def test_the_same_bytes_twice(tmp_path: Path) -> None:
    path, _ = exported("residual")
    result = zoo.quantized("residual")
    export_onnx(result.model, tmp_path / "again.onnx", result.samples)
    assert (tmp_path / "again.onnx").read_bytes() == path.read_bytes()


def test_the_graph_is_left_as_it_was(tmp_path: Path) -> None:
    import json

    from halfstep.graph.serialize import to_json

    graph = zoo.quantized("two_inputs").model
    before, state = json.dumps(to_json(graph)), {key: value.clone() for key, value in graph.state_dict().items()}
    export_onnx(graph, tmp_path / "x.onnx", zoo.quantized("two_inputs").samples)
    assert json.dumps(to_json(graph)) == before
    assert all(torch.equal(state[key], value) for key, value in graph.state_dict().items())


def test_the_result_remembers_its_export(tmp_path: Path) -> None:
    result = hs.quantize(zoo.ZOO["bias_free"].model(), zoo.calibration_of("bias_free"))
    check = hs.export.onnx(result, tmp_path / "model.onnx")
    assert result.record.export_check == check and result.record.bytes["onnx"] == (tmp_path / "model.onnx").stat().st_size


# ---- what must be refused


def corrupted(name: str, tensor: str, tmp_path: Path, change: object) -> Path:
    """The exported file of ``name`` with one initializer changed by ``change(array)``."""
    model = onnx.load(exported(name)[0])
    stored = initializers(model)[tensor]
    array = onnx.numpy_helper.to_array(stored).copy()
    stored.CopyFrom(onnx.numpy_helper.from_array(change(array), tensor))
    onnx.save(model, tmp_path / "corrupted.onnx")
    return tmp_path / "corrupted.onnx"


@pytest.mark.parametrize(
    ("name", "tensor", "change"),
    [
        ("residual", "conv2.weight", lambda a: -a),
        ("residual", "conv2.weight.scale", lambda a: a * 1.1),
        ("residual", "conv1.bias", lambda a: a + 30000),
        ("residual", "relu.scale", lambda a: a * 0.9),
        ("residual", "fc.weight", lambda a: a[::-1].copy()),
        ("residual", "fc.weight.scale", lambda a: a * np.float32(np.nan)),
        ("dict_output", "fc.weight", lambda a: a[::-1].copy()),
        ("dict_output", "conv.weight", lambda a: -a),
    ],
)
def test_a_corrupted_file_is_refused(name: str, tensor: str, change: object, tmp_path: Path) -> None:
    result = zoo.quantized(name)
    with pytest.raises(ExportError, match="exported file"):
        verify(result.model, corrupted(name, tensor, tmp_path, change), result.samples)


def test_every_output_is_compared(tmp_path: Path) -> None:
    """The second head's float output is behind no quantizer: only comparing it can tell."""
    result = zoo.quantized("tuple_output")
    path = tmp_path / "model.onnx"
    export_onnx(result.model, path, result.samples)
    model = onnx.load(path)
    stored = initializers(model)["other.weight"]
    stored.CopyFrom(onnx.numpy_helper.from_array(-onnx.numpy_helper.to_array(stored), "other.weight"))
    onnx.save(model, path)
    with pytest.raises(ExportError, match="exported file"):
        verify(result.model, path, result.samples)


def test_no_file_is_left_where_the_check_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from halfstep.export import onnx_qdq

    original = onnx_qdq.rewrite

    def spoil(model: object, marked: object, target: Target) -> object:
        model = original(model, marked, target)
        scale = model.graph.initializers["1.scale"]  # type: ignore[attr-defined]
        scale.const_value = onnx_qdq.ir.tensor(scale.const_value.numpy() * np.float32(1.5), name="1.scale")
        return model

    monkeypatch.setattr(onnx_qdq, "rewrite", spoil)
    result = zoo.quantized("bias_free")
    (tmp_path / "model.onnx").write_bytes(b"what was there")
    with pytest.raises(ExportError, match=r"differs from the simulation by \d+ codes at '1' \(allowed: 1\); 'model.onnx' was not written"):
        hs.export.onnx(result, tmp_path / "model.onnx")
    assert (tmp_path / "model.onnx").read_bytes() == b"what was there"
    assert [path.name for path in tmp_path.iterdir()] == ["model.onnx"]
    assert result.record.export_check is None


def test_an_operator_the_exporter_does_not_know(tmp_path: Path) -> None:
    class Unknown(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.special.bessel_j0(x)

    result = hs.quantize(nn.Sequential(nn.Linear(4, 4), Unknown(), nn.Linear(4, 2)).eval(), torch.randn(16, 4))
    assert [operator.operator for operator in result.record.float_operators] == ["special_bessel_j0"]
    with pytest.raises(ExportError, match=r"ONNX exporter cannot translate the network: .*bessel_j0"):
        hs.export.onnx(result, tmp_path / "model.onnx")
    assert not list(tmp_path.iterdir())


def test_fewer_samples_than_a_fixed_batch(tmp_path: Path) -> None:
    x = zoo.ZOO["residual"].inputs(8)
    program = torch.export.export(zoo.ZOO["residual"].model(), x)
    result = hs.quantize(program, zoo.ZOO["residual"].inputs(5)[0])
    check = hs.export.onnx(result, tmp_path / "model.onnx")
    assert check.num_edges > 0 and check.max_code_difference <= BOUND


@pytest.mark.parametrize(
    ("weights", "activations"), [("int8", "uint4"), ("int8", "int8"), ("int6", "uint8"), ("int8", "uint16"), ("int3", "int5")]
)
def test_other_types(weights: str, activations: str, tmp_path: Path) -> None:
    recipe = hs.Recipe.load("int8").with_types(weights, activations)
    result = hs.quantize(zoo.ZOO["two_inputs"].model(), zoo.calibration_of("two_inputs"), recipe)
    check = hs.export.onnx(result, tmp_path / "model.onnx")
    onnx.checker.check_model(onnx.load(tmp_path / "model.onnx"), full_check=True)
    assert check.max_code_difference <= BOUND and check.num_edges > 0


def test_a_path_without_folder(tmp_path: Path) -> None:
    with pytest.raises(hs.HalfstepError, match="nowhere"):
        hs.export.onnx(zoo.quantized("bias_free"), tmp_path / "nowhere" / "model.onnx")


class SizeOf(nn.Module):
    """Reads the values of one input and the size of another."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(8, 8), nn.Linear(8, 4)

    def forward(self, x: Tensor, other: Tensor) -> Tensor:
        return self.second(self.first(x).reshape(other.shape[0], -1, 8))


def test_an_input_of_which_only_the_size_is_read(tmp_path: Path) -> None:
    recipe = hs.Recipe.load("int8")
    recipe = recipe.model_copy(update={"scheme": recipe.scheme.model_copy(update={"inputs": "uint8"})})
    result = hs.quantize(SizeOf(), [((torch.randn(4, 2, 8), torch.randn(4, 3)), None)], recipe)
    check = hs.export.onnx(result, tmp_path / "model.onnx")
    assert check.max_code_difference <= 1
