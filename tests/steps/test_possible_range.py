"""Tensors that are 0, or nothing but rounding, on all calibration inputs."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import halfstep as hs


class Cancelling(nn.Module):
    """(x + y) - x - y is what float32 rounds off: a runtime that adds in another order has something else."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        y = x * 0.3
        return self.layer(((x + y) - x - y).relu())


class Small(nn.Module):
    """A tensor that is small because it was made so."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(1e6 * (x * 1e-8 + x * 1e-8))


def test_terms_that_cancel_count_as_0() -> None:
    result = hs.quantize(Cancelling(), torch.randn(32, 8), "int8")
    assert any("were 0 for every calibration input" in note for note in result.record.notes)
    scales = [
        float(layer.output.scale[0]) for layer in result.record.layers if layer.operator in ("add", "sub") and layer.output is not None
    ]
    assert min(scales) > 1e-4  # of tensors of size 1, not of the 1e-7 that is rounded off


@pytest.mark.parametrize("average", [nn.AdaptiveAvgPool2d(1), nn.AvgPool2d(4)])
def test_averages_that_cancel_count_as_0(average: nn.Module) -> None:
    network = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.InstanceNorm2d(8), average, nn.Flatten(), nn.Linear(8, 4))
    result = hs.quantize(network.eval(), torch.randn(32, 3, 4, 4), "int8")
    assert any("were 0 for every calibration input" in note for note in result.record.notes)
    (pooled,) = [layer.output for layer in result.record.layers if "avg_pool" in layer.operator]
    assert pooled is not None and float(pooled.scale[0]) > 1e-4


def test_a_norm_of_what_does_not_vary_counts_as_0() -> None:
    """It makes 1e-5 of what float32 rounds off, and so does an average of it."""
    network = nn.Sequential(nn.Conv2d(3, 4, 1), nn.InstanceNorm2d(4), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2)).eval()
    nn.init.zeros_(network[0].weight)  # type: ignore[arg-type]
    result = hs.quantize(network, torch.randn(16, 3, 8, 8), "int8")
    assert any("2 tensor(s) were 0 for every calibration input" in note for note in result.record.notes)


def test_a_sum_that_is_finer_than_its_terms_can_be_added_up(tmp_path: Path) -> None:
    """X + 10^7 - 10^7 of a rounded x: in float32 a step of the one term is 2^24 steps of the sum, and more."""

    class Fine(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(8, 8)

        def forward(self, x: Tensor) -> Tensor:
            large = 1e6 * x
            y: Tensor = self.layer((large + x.relu()) - large)
            return y

    result = hs.quantize(Fine(), torch.randn(32, 8), "int8-per-tensor")
    hs.export.onnx(result, tmp_path / "model.onnx")
    layers = {layer.name: layer.output for layer in result.record.layers if layer.output is not None}
    terms, found = float(layers["mul"].scale[0]), float(layers["add#2"].scale[0])
    assert found >= 256 * terms * 2.0**-24


def test_small_values_are_no_rounding() -> None:
    result = hs.quantize(Small(), torch.randn(32, 8), "int8")
    assert not any("were 0 for every calibration input" in note for note in result.record.notes)


def test_a_gate_that_is_always_shut_counts_as_0() -> None:
    """Its sigmoid is 1e-22 everywhere, which runtimes do not compute alike."""
    network = nn.Sequential(nn.Linear(8, 8), nn.Sigmoid(), nn.Linear(8, 4))
    nn.init.constant_(network[0].bias, -50.0)
    result = hs.quantize(network, torch.randn(32, 8), "int8")
    (gate,) = [layer for layer in result.record.layers if layer.operator == "sigmoid"]
    assert gate.output is not None and gate.output.range == (0.0, 1.0)
