"""Figures of outputs without labels, by hand."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn
from torch.fx import GraphModule

import halfstep as hs
from halfstep.graph.capture import capture
from halfstep.report.quality import measure_quality


class Outputs(nn.Module):
    """Of inputs [N, 3], times a factor: as they are, as a distribution, and one number each."""

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = nn.Parameter(torch.tensor([1.0, 1.0, factor]))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        y = x * self.factor
        return y, y.softmax(-1), y.sum(-1)


X = torch.tensor([[1.0, 2.0, 3.0], [4.0, 0.0, 3.0], [0.0, 1.0, 2.0]])


def graphs(factor: float) -> tuple[GraphModule, GraphModule]:
    return capture(Outputs(1.0), (X,)), capture(Outputs(factor), (X,))


def test_figures_by_hand() -> None:
    """Of three largest entries one stays where it is."""
    quality = measure_quality(*graphs(0.5), (X,), is_held_out=True)
    assert quality is not None and quality.num_samples == 3 and quality.is_held_out
    scores, distribution, number = quality.outputs
    noise = (X[:, 2] / 2).square().sum()
    assert scores.sqnr_db == pytest.approx(10 * math.log10(float(X.square().sum() / noise)))
    halved = X * torch.tensor([1, 1, 0.5])
    assert scores.cosine == pytest.approx(float(torch.cosine_similarity(X, halved, 1).mean()))
    assert scores.agreement == pytest.approx(1 / 3) and scores.kl is None
    exact, found = X.softmax(1), halved.softmax(1)
    assert distribution.kl == pytest.approx(float((exact * (exact / found).log()).sum(1).mean()), rel=1e-5)
    assert distribution.agreement == pytest.approx(1 / 3)
    assert number.agreement is None and number.kl is None and number.cosine == pytest.approx(1)


def test_no_difference() -> None:
    quality = measure_quality(*graphs(1.0), (X,), is_held_out=False)
    assert quality is not None
    assert [output.sqnr_db for output in quality.outputs] == [None] * 3
    assert [output.agreement for output in quality.outputs] == [1, 1, None]
    assert quality.outputs[1].kl == pytest.approx(0, abs=1e-9)


def test_inputs_that_were_not_calibrated_on() -> None:
    """Of those that are left over; of the validation data, with labels or without; else the calibration inputs, which is said."""
    torch.manual_seed(0)
    model, x = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 4)), torch.randn(100, 8)
    found = [
        hs.quantize(model, x, "int8", **options).record.quality
        for options in ({"samples": 80}, {"samples": None}, {"samples": None, "validation": torch.randn(5, 8)}, {"samples": 20})
    ]
    assert [(quality.num_samples, quality.is_held_out) for quality in found if quality] == [(20, True), (32, False), (5, True), (64, True)]


def test_a_stream_is_read_on() -> None:
    parts = torch.randn(10, 8, 8).unbind()
    data = hs.as_data(list(parts))
    assert sum(len(batch.inputs[0]) for batch in data.others(16, 50)) == 16
    assert torch.equal(torch.cat([batch.inputs[0] for batch in data.others(100, 50)]), torch.cat(parts)[50:])
    assert list(data.others(16, 80)) == [] and list(data.others(16)) == []
