"""Zeros that a pooling is padded with count, however the runtime fuses: against the simulation, and operator by operator."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper
from torch import Tensor, nn
from torch.nn import functional

import halfstep as hs
from halfstep.export import onnx_qdq
from halfstep.export.pool_guard import guard_pools
from halfstep.export.translation.writer import Untranslatable

_NUM_INPUTS = 4  # of a Pad that names its axes
_CEIL = {"strides": [2, 2], "ceil_mode": 1}


class PaddedPool(nn.Module):
    """Values below 0 everywhere, a border of zeros, and a pooling that looks at both; nothing in between is on a grid."""

    def __init__(self, pool: nn.Module) -> None:
        super().__init__()
        self.first, self.pool, self.last = nn.Conv2d(3, 8, 3), pool, nn.Conv2d(8, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.pool(functional.pad(self.first(x).relu() - 3.0, (0, 1, 0, 1))))


@pytest.mark.parametrize("pool", [nn.MaxPool2d(2, 1), nn.MaxPool2d(2, 2, ceil_mode=True)], ids=["floor", "ceil"])
def test_a_border_of_zeros_counts(pool: nn.Module, tmp_path: Path) -> None:
    torch.manual_seed(0)
    path = tmp_path / "pool.onnx"
    check = hs.export.onnx(hs.quantize(PaddedPool(pool), torch.randn(8, 3, 9, 9)), path)
    assert check.max_code_difference <= 1
    assert [len(node.input) for node in onnx.load(path).graph.node if node.op_type == "Pad"] == [_NUM_INPUTS]


@pytest.mark.parametrize("is_foreign", [False, True], ids=["own", "torch"])
@pytest.mark.parametrize("rank", [1, 2])
def test_windows_that_end_behind_a_padding_that_counts(
    rank: int, is_foreign: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Their divisor is what of them lies on the tensor and its padding: 2 of 3 at the end of each axis."""
    if is_foreign:  # as where one operator of the network is not known
        monkeypatch.setattr(onnx_qdq, "translate", _refuse)
    pool = (nn.AvgPool1d, nn.AvgPool2d)[rank - 1](3, stride=2, padding=1, ceil_mode=True)
    network = nn.Sequential(nn.Linear(8, 8), pool, nn.ReLU(), nn.Linear(5, 4)).eval()
    check = hs.export.onnx(hs.quantize(network, torch.randn(8, 4, *[8] * rank) + 2), tmp_path / "pool.onnx")
    assert check.max_code_difference <= 1


def test_a_window_that_begins_behind_the_input_is_none(tmp_path: Path) -> None:
    """Three windows in torch; read by ONNX's own rule for ceil_mode there are four, and the layer behind them does not fit."""
    network = nn.Sequential(nn.MaxPool1d(2, 2, 1, ceil_mode=True), nn.Linear(3, 8)).eval()
    check = hs.export.onnx(hs.quantize(network, torch.randn(8, 8, 5)), tmp_path / "pool.onnx")
    assert check.max_code_difference <= 1


@pytest.mark.parametrize("options", [{}, _CEIL], ids=["floor", "ceil"])
@pytest.mark.parametrize("operator", ["MaxPool", "AveragePool"])
def test_optimizations_change_nothing(operator: str, options: dict[str, Any]) -> None:
    model = ir.from_proto(_padded(operator, options))
    guard_pools(model.graph)
    guarded = ir.to_proto(model).SerializeToString()
    x = -np.random.default_rng(0).random((1, 2, 4, 4), dtype=np.float32)
    plain, optimized = (_run(guarded, x, level) for level in ("ORT_DISABLE_ALL", "ORT_ENABLE_ALL"))
    np.testing.assert_allclose(optimized, plain, rtol=1e-6)


def test_a_padding_that_no_pooling_reads_stays() -> None:
    model = ir.from_proto(_padded("Relu", {}))
    guard_pools(model.graph)
    assert [len(node.inputs) for node in model.graph] == [2, 1]


def _refuse(graph: object) -> None:
    raise Untranslatable("anything")


def _padded(operator: str, options: dict[str, Any]) -> onnx.ModelProto:
    window = {"kernel_shape": [2, 2]} if operator != "Relu" else {}
    nodes = [helper.make_node("Pad", ["x", "pads"], ["padded"]), helper.make_node(operator, ["padded"], ["y"], **window, **options)]
    shown = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in (("x", [1, 2, 4, 4]), ("y", None))]
    pads = helper.make_tensor("pads", TensorProto.INT64, [8], [0, 0, 0, 0, 0, 0, 1, 1])
    graph = helper.make_graph(nodes, "padded", shown[:1], shown[1:], [pads])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)


def _run(model: bytes, x: np.ndarray[Any, Any], level: str) -> Any:
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = getattr(onnxruntime.GraphOptimizationLevel, level)
    return onnxruntime.InferenceSession(model, options, ["CPUExecutionProvider"]).run(None, {"x": x})[0]
