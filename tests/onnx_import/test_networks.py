"""Whole networks: exported, imported again, compared with ONNX Runtime and quantized."""

from __future__ import annotations

import contextlib
import io
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import halfstep as hs
import zoo
from halfstep.export.onnx_qdq import export_onnx
from halfstep.export.session import open_session, run_session
from halfstep.graph.capture import capture
from halfstep.graph.check import check
from halfstep.graph.edges import behind_quantizer
from halfstep.graph.operators import weighted_layers

TOLERANCE = 1e-4
WRITTEN_QUICKLY = (
    "conv_bn_relu", "residual", "shared", "depthwise", "concat", "option_a", "transposed", "linear_bn", "squeeze_excite", "conv1d",
    "conv3d", "scalars", "constants", "tuple_output", "two_inputs", "static_batch", "paddings", "large_bias",
)  # fmt: skip


def export_with_torch(model: torch.nn.Module, inputs: tuple[Tensor, ...], path: Path, is_fixed: bool = False) -> Path:
    """PyTorch's own exporter, without what it prints."""
    shapes = None if is_fixed else tuple({0: torch.export.Dim("batch", min=1)} for _ in inputs)
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        torch.onnx.export(model, inputs, path, dynamo=True, dynamic_shapes=shapes, external_data=False, verbose=False)
    return path


def judge(path: Path, inputs: tuple[Tensor, ...]) -> None:
    """The imported network, the graph captured from it and ONNX Runtime compute the same."""
    expected = [torch.from_numpy(output) for output in run_session(open_session(path), inputs).values()]
    model = hs.load_onnx(path)
    graph = capture(model, inputs)
    check(graph)
    with torch.no_grad():
        for outputs in (model(*inputs), graph(*inputs)):
            for found, wanted in zip(zoo.leaves(outputs), expected, strict=True):
                assert zoo.relative(found, wanted) < TOLERANCE


@pytest.mark.parametrize("name", WRITTEN_QUICKLY)
def test_own_export(name: str, tmp_path: Path) -> None:
    member = zoo.ZOO[name]
    export_onnx(zoo.captured(name), tmp_path / "net.onnx", member.inputs())
    judge(tmp_path / "net.onnx", member.inputs())


@pytest.mark.slow
@pytest.mark.parametrize("name", zoo.NAMES)
def test_export_of_torch(name: str, tmp_path: Path) -> None:
    member = zoo.ZOO[name]
    path = export_with_torch(member.model(), member.inputs(member.batch_size or 2), tmp_path / "net.onnx", member.batch_size is not None)
    judge(path, member.inputs())
    result = hs.quantize(hs.load_onnx(path), zoo.calibration_of(name))
    assert hs.export.onnx(result, tmp_path / "int8.onnx").max_code_difference <= 1


def test_a_network_of_torch_keeps_its_names(tmp_path: Path) -> None:
    path = export_with_torch(zoo.ZOO["residual"].model(), zoo.ZOO["residual"].inputs(), tmp_path / "net.onnx")
    judge(path, zoo.ZOO["residual"].inputs())
    result = hs.quantize(hs.load_onnx(path), zoo.calibration_of("residual"))
    weights = [behind_quantizer(layer.weight).meta["name"] for layer in weighted_layers(result.model)]
    assert weights == ["conv1.weight", "conv2.weight", "conv3.weight", "fc.weight"]
    check = hs.export.onnx(result, tmp_path / "int8.onnx")
    assert check.max_code_difference <= 1


def test_a_saved_run_is_read_again(tmp_path: Path) -> None:
    """Names with slashes survive the files of a run."""
    path = export_with_torch(zoo.ZOO["conv_bn_relu"].model(), zoo.ZOO["conv_bn_relu"].inputs(), tmp_path / "net.onnx")
    x = zoo.ZOO["conv_bn_relu"].inputs()[0]
    result = hs.quantize(hs.load_onnx(path), zoo.calibration_of("conv_bn_relu"))
    result.save(tmp_path / "run")
    assert torch.equal(hs.load(tmp_path / "run").model(x), result.model(x))


@pytest.mark.parametrize(
    "name",
    [
        "resnet8_mlperf",
        pytest.param("resnet20", marks=pytest.mark.slow),
        pytest.param("nin", marks=pytest.mark.slow),
        pytest.param("resnet32", marks=pytest.mark.slow),
        pytest.param("resnet56", marks=pytest.mark.slow),
    ],
)
def test_cifar_networks(name: str, cifar: Any, tmp_path: Path) -> None:
    model = cifar.load_network(name)
    images, labels = cifar.load_split("validation")
    x, calibration = cifar.normalize(images[:200], name), cifar.normalize(cifar.load_split("train")[0][:128], name)
    export_onnx(capture(model, (x,)), tmp_path / "net.onnx", (x[:8],))
    judge(tmp_path / "net.onnx", (x[:8],))
    result = hs.quantize(hs.load_onnx(tmp_path / "net.onnx"), calibration)
    data = (x, torch.from_numpy(labels[:200]).long())
    exact, imported, quantized = (hs.evaluate(net, data) for net in (model, hs.load_onnx(tmp_path / "net.onnx"), result))
    assert exact >= 80 and imported == exact
    assert abs(quantized - exact) <= 2.5  # int8 flips some 1 % of the answers: 2 of 200, each way
    from_torch = hs.quantize(model, calibration)
    assert [layer.weight.meta["shape"] for layer in weighted_layers(result.model)] == [
        layer.weight.meta["shape"] for layer in weighted_layers(from_torch.model)
    ]
    assert abs(quantized - hs.evaluate(from_torch, data)) <= 1.0
