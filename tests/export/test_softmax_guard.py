"""Attention that looks at everything alike: the codes of its softmax are right in ONNX Runtime, and others keep the integer kernel."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest
import torch
from torch import Tensor, nn

import halfstep as hs
from halfstep.export.session import executed_operators
from halfstep.quantizers import UniformQuantizer, quantizers


class Weighted(nn.Module):
    """A softmax over 32 places of products with a matrix of the given size of entries, and what it weighs."""

    def __init__(self, size: float) -> None:
        super().__init__()
        self.scores, self.values = nn.Linear(16, 32), nn.Linear(32, 4)
        with torch.no_grad():
            self.scores.weight.mul_(size)
            self.scores.bias.zero_()

    def forward(self, x: Tensor) -> Tensor:
        return self.values(self.scores(x).softmax(-1))


class Turned(Weighted):
    """The same, with the grid behind a transposition."""

    def forward(self, x: Tensor) -> Tensor:
        return self.values(self.scores(x).unflatten(1, (2, 3)).softmax(-1).transpose(1, 2))


@pytest.mark.parametrize("network", [Weighted, Turned])
@pytest.mark.parametrize("size", [0.01, 4.0, 40.0])
def test_a_softmax_is_right_at_every_size(network: type[Weighted], size: float, tmp_path: Path) -> None:
    """Its grid is always 1 / 255, behind a transposition too."""
    torch.manual_seed(0)
    _export(hs.quantize(network(size), torch.randn(32, 6, 16)), tmp_path, is_guarded=False)


@pytest.mark.parametrize("network", [Weighted, Turned])
def test_a_small_scale_is_guarded(network: type[Weighted], tmp_path: Path) -> None:
    """As training with learned scales may find it where attention looks at everything alike."""
    torch.manual_seed(0)
    result = hs.quantize(network(0.01), torch.randn(32, 6, 16))
    grids = [module for _, module in quantizers(result.model) if isinstance(module, UniformQuantizer)]
    (softmax,) = (grid for grid in grids if grid.scale.numel() == 1 and abs(float(grid.scale) * 255 - 1) < 1e-6)
    softmax.set(torch.tensor(1 / 7000), torch.tensor(0.0))
    _export(result, tmp_path, is_guarded=True)


def _export(result: hs.Result, folder: Path, is_guarded: bool) -> None:
    path = folder / "softmax.onnx"
    check = hs.export.onnx(result, path)
    assert check.max_code_difference <= 1
    assert ("Max" in [node.op_type for node in onnx.load(path).graph.node]) is is_guarded
    assert ("QLinearSoftmax" in executed_operators(path)) is not is_guarded
