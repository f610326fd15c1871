"""Outputs of the network whose moved values are quantized: ONNX Runtime gives out what was computed, not what was rounded."""

from __future__ import annotations

from pathlib import Path

import onnx
import onnxruntime
import pytest
import torch
from torch import Tensor, nn

import halfstep as hs
from halfstep.graph.run import run


class Features(nn.Module):
    """A clipped input that leaves the network, and a layer on what is left of it once it was moved."""

    def __init__(self, axes: tuple[int, int]) -> None:
        super().__init__()
        self.axes, self.layer = axes, nn.Linear(8, 4)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x = x.clamp(-1, 2)
        return x, self.layer(x.transpose(*self.axes) if self.axes[0] else x)


@pytest.mark.parametrize(("axes", "is_guarded"), [((1, 2), True), ((0, 0), False)])
def test_an_output_that_is_read_again(axes: tuple[int, int], is_guarded: bool, tmp_path: Path) -> None:
    torch.manual_seed(0)
    x = torch.randn(16, 8, 8)
    result = hs.quantize(Features(axes), x, "int8")
    hs.export.onnx(result, tmp_path / "model.onnx")
    assert any(node.op_type == "Max" for node in onnx.load(tmp_path / "model.onnx").graph.node) == is_guarded
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx", providers=["CPUExecutionProvider"])
    found = session.run(None, {session.get_inputs()[0].name: x.numpy()})
    for ours, theirs in zip(run(result.model, (x,)), found, strict=True):
        assert float((ours - torch.from_numpy(theirs)).abs().max()) < 1e-3 * float(ours.abs().max())
    assert [value.name for value in session.get_outputs()] == ["output", "output_1"]
