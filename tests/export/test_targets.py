"""For each target the pattern its runtime fuses, and what ONNX Runtime and OpenVINO (where it is installed) really execute."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from torch import Tensor, nn

import halfstep as hs
from halfstep.errors import ExportError, RecipeError
from halfstep.runtimes.execution import has_openvino
from halfstep.targets import TARGETS

X = torch.randn(24, 3, 10, 10, generator=torch.Generator().manual_seed(2))


class Fire(nn.Module):
    """A residual block, a concatenation of two ReLUs, a pool, a function in float, a classifier."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.block = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1)
        self.left, self.right, self.last = nn.Conv2d(8, 8, 1), nn.Conv2d(8, 8, 3, padding=1), nn.Conv2d(16, 8, 1)
        self.classifier = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.stem(x))
        x = torch.relu(x + self.block(x))
        x = torch.cat([torch.relu(self.left(x)), torch.relu(self.right(x))], 1)
        x = nn.functional.hardswish(self.last(nn.functional.max_pool2d(x, 2)))
        return self.classifier(x.mean((2, 3)))


@pytest.fixture(scope="module")
def results() -> dict[str, hs.Result]:
    torch.manual_seed(0)
    network = Fire().eval()
    return {name: hs.quantize(network, X, hs.Recipe.load("int8").with_target(name)) for name in TARGETS}


@pytest.fixture(scope="module")
def files(results: dict[str, hs.Result], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("targets")
    for name, result in results.items():
        hs.export.onnx(result, folder / f"{name}.onnx")
    return {name: folder / f"{name}.onnx" for name in results}


class File:
    """An exported file by names."""

    def __init__(self, path: Path) -> None:
        graph = onnx.load(path).graph
        self.nodes = list(graph.node)
        self.values = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in graph.initializer}
        self.makers = {name: node for node in graph.node for name in node.output}

    def of_type(self, op_type: str) -> list[onnx.NodeProto]:
        return [node for node in self.nodes if node.op_type == op_type]

    def readers(self, name: str) -> list[str]:
        return [node.op_type for node in self.nodes if name in node.input]

    def grid(self, name: str) -> tuple[np.dtype[Any], int, float]:
        """Type, zero point and scale of the DequantizeLinear that makes ``name``."""
        point = self.values[self.makers[name].input[2]]
        return point.dtype, int(point), float(self.values[self.makers[name].input[1]])

    def is_quantized(self, name: str) -> bool:
        return name in self.makers and self.makers[name].op_type == "DequantizeLinear"


def test_onnxruntime_has_a_grid_everywhere_and_uint8(files: dict[str, Path]) -> None:
    file = File(files["onnxruntime"])
    assert all(file.readers(node.output[0]) == ["QuantizeLinear"] for node in file.of_type("Conv"))
    (add,) = file.of_type("Add")
    assert all(file.is_quantized(name) for name in add.input)
    assert {file.grid(node.input[0])[0] for node in file.of_type("Conv")} == {np.dtype(np.uint8)}
    assert all(file.is_quantized(node.input[2]) for node in file.of_type("Conv"))


@pytest.mark.parametrize("target", ["onnxruntime", "openvino", "tensorrt"])
def test_a_concatenation_shares_its_grid(files: dict[str, Path], target: str) -> None:
    file = File(files[target])
    (concat,) = file.of_type("Concat")
    (behind,) = [node for node in file.of_type("QuantizeLinear") if node.input[0] == concat.output[0]]
    grids = {file.grid(name) for name in concat.input}
    assert len(grids) == 1
    assert next(iter(grids))[2] == float(file.values[behind.input[1]])


def test_generic_leaves_every_operand_its_own_grid(files: dict[str, Path]) -> None:
    (concat,) = File(files["generic"]).of_type("Concat")
    assert len({File(files["generic"]).grid(name) for name in concat.input}) == 2


@pytest.mark.parametrize("target", ["openvino", "tensorrt"])
def test_accumulators_are_added_and_unread_layers_have_no_grid(files: dict[str, Path], target: str) -> None:
    file = File(files[target])
    (add,) = file.of_type("Add")
    assert sorted(file.makers[name].op_type for name in add.input) == ["Conv", "DequantizeLinear"]
    (function,) = file.of_type("HardSwish")
    assert file.makers[function.input[0]].op_type == "Conv"


def test_tensorrt_reads_signed_symmetric_grids_and_float_biases(files: dict[str, Path]) -> None:
    file = File(files["tensorrt"])
    points = [file.values[node.input[2]] for node in file.of_type("DequantizeLinear")]
    assert {point.dtype for point in points} == {np.dtype(np.int8)}
    assert not any(point.any() for point in points)
    assert all(file.values[node.input[2]].dtype == np.float32 for node in file.of_type("Conv"))
    verdicts = [entry.verdicts["tensorrt"] for entry in hs.check_onnx(files["tensorrt"]).operators]
    assert not any(verdict.is_refused for verdict in verdicts)


def test_onnxruntime_computes_every_layer_with_integers(files: dict[str, Path]) -> None:
    found = hs.check_onnx(files["onnxruntime"], ("onnxruntime",))
    (note,) = found.notes
    assert found.is_integer and "without VNNI" in note
    assert all(entry.verdicts["onnxruntime"].is_confirmed for entry in found.operators if entry.is_heavy)


@pytest.mark.skipif(not has_openvino(), reason="openvino is not installed")
@pytest.mark.parametrize("target", TARGETS)
def test_openvino_computes_every_layer_with_integers(files: dict[str, Path], target: str) -> None:
    found = hs.check_onnx(files[target], ("openvino",))
    assert found.is_integer and found.notes == ()
    assert all(entry.verdicts["openvino"].is_confirmed for entry in found.operators if entry.is_heavy)


def test_a_file_for_another_target(results: dict[str, hs.Result], tmp_path: Path) -> None:
    """Patterns can be changed at export, grids cannot."""
    hs.export.onnx(results["onnxruntime"], tmp_path / "plain.onnx", target="generic")
    with pytest.raises(ExportError, match="uint8 grid, which tensorrt does not read: quantize with --target tensorrt"):
        hs.export.onnx(results["onnxruntime"], tmp_path / "engine.onnx", target="tensorrt")
    assert not (tmp_path / "engine.onnx").exists()


def test_an_unknown_target() -> None:
    with pytest.raises(RecipeError, match=r"Unknown target 'openvin'\. Did you mean 'openvino'\?"):
        hs.Recipe.load("int8").with_target("openvin")


@pytest.mark.parametrize(("target", "storage", "between"), [
    ("onnxruntime", onnx.TensorProto.INT4, "Cast"), ("openvino", onnx.TensorProto.INT4, "Cast"),
    ("tensorrt", onnx.TensorProto.INT8, "DequantizeLinear"), ("generic", onnx.TensorProto.INT4, "DequantizeLinear"),
])  # fmt: skip
def test_nibbles(target: str, storage: int, between: str, tmp_path: Path) -> None:
    """4-bit weights of a convolution and of a product on three axes; integers wherever the runtime has them."""
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.ReLU(), nn.Flatten(2), nn.Linear(36, 16), nn.ReLU(), nn.Linear(16, 4)]
    network = nn.Sequential(*layers)
    recipe = hs.Recipe.load("int8").with_types(weights="int4").with_target(target)
    hs.export.onnx(hs.quantize(network.eval(), X, recipe), tmp_path / "nibbles.onnx")
    model = onnx.load(tmp_path / "nibbles.onnx")
    weights = [tensor for tensor in model.graph.initializer if len(tensor.dims) > 1]
    assert len(weights) == 4
    assert {tensor.data_type for tensor in weights} == {storage}
    readers = {node.op_type for node in model.graph.node for tensor in weights if tensor.name in node.input}
    assert readers == {between}
    if target == "onnxruntime":
        assert hs.check_onnx(tmp_path / "nibbles.onnx", ("onnxruntime",)).is_integer


def test_a_clip_between_a_convolution_and_a_signed_grid_becomes_one_of_codes(tmp_path: Path) -> None:
    """ReLU in front of a symmetric grid: left in float it would cost the integer kernel of the convolution."""
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 3)).eval()
    recipe = hs.Recipe.load("int8").with_types(activations="int8")
    hs.export.onnx(hs.quantize(network, X, recipe), tmp_path / "signed.onnx")
    file = File(tmp_path / "signed.onnx")
    (clip,) = file.of_type("Clip")
    assert int(file.values[clip.input[1]]) == 128 and not file.of_type("Relu")
    assert hs.check_onnx(tmp_path / "signed.onnx", ("onnxruntime",)).is_integer


def test_a_clip_for_a_target_that_does_not_work_on_codes(tmp_path: Path) -> None:
    """6-bit activations: bounds in real numbers before Q; the export itself compares the codes."""
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 3)).eval()
    recipe = hs.Recipe.load("int8").with_types(activations="uint6").with_target("tensorrt")
    hs.export.onnx(hs.quantize(network, X, recipe), tmp_path / "narrow.onnx")
    file = File(tmp_path / "narrow.onnx")
    assert all(file.readers(node.output[0]) == ["QuantizeLinear"] for node in file.of_type("Clip"))
    assert len(file.of_type("Clip")) == 2


@pytest.mark.parametrize("target", sorted(TARGETS))
def test_signed_activations_in_front_of_a_reshape(target: str, tmp_path: Path) -> None:
    """ONNX Runtime multiplies a batch of one as a matrix, and gives the reshape in front a rounding with a type it changes afterwards."""
    recipe = hs.Recipe.load("int8").with_types(activations="int8").with_target(target)
    result = hs.quantize(nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 4)).eval(), torch.randn(1, 8, 8), recipe)
    assert hs.export.onnx(result, tmp_path / "model.onnx").max_code_difference <= 1
