"""Names in exported files: the user's, each once, whatever they are."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest
import torch
from torch import Tensor, nn

import halfstep as hs
import zoo


class Clashing(nn.Module):
    """Tensors called as the exporter would call what it makes of others."""

    def __init__(self) -> None:
        super().__init__()
        for name in ("w", "w_scale", "number", "x", "output"):
            self.register_parameter(name, nn.Parameter(torch.randn(4, 4)))
        self.w_parts = nn.ParameterDict({"codes": nn.Parameter(torch.randn(4, 4)), "scale": nn.Parameter(torch.randn(4, 4))})
        self.linear = nn.ParameterDict({"0": nn.Parameter(torch.randn(4, 4)), "codes": nn.Parameter(torch.randn(4, 4))})

    def forward(self, x: Tensor) -> Tensor:
        for weight in self.parameters():
            x = nn.functional.linear(x, weight)
        return x.asin() if x.shape[1] == 3 else x


def test_each_name_is_there_once(tmp_path: Path) -> None:
    network, x = Clashing().eval(), torch.randn(16, 4)
    result = hs.quantize(network, x)
    hs.export.onnx(result, tmp_path / "net.onnx")
    graph = onnx.load(tmp_path / "net.onnx").graph
    made = [*(value.name for value in graph.input), *(tensor.name for tensor in graph.initializer)]
    made += [name for node in graph.node for name in node.output]
    assert len(set(made)) == len(made)
    assert {"w", "w.scale", "w.zero_point", "w_scale", "linear.0", "linear.codes", "linear.codes.scale", "x", "x.codes"} <= set(made)
    assert graph.output[0].name == "output"


@pytest.mark.parametrize("name", ["residual", "attention", "slice_assignment", "concat"])
def test_no_own_name_is_left(name: str, tmp_path: Path) -> None:
    hs.export.onnx(zoo.quantized(name), tmp_path / "net.onnx")
    graph = onnx.load(tmp_path / "net.onnx").graph
    made = [*(value.name for value in graph.input), *(tensor.name for tensor in graph.initializer)]
    made += [name for node in graph.node for name in node.output]
    assert not [name for name in made if name[:2] in ("p_", "b_", "m_", "e_", "x_")]
