"""Multiply-accumulates of one sample, by hand."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from halfstep.graph.capture import capture
from halfstep.graph.macs import num_macs
from halfstep.graph.operators import weighted_layers


@pytest.mark.parametrize(
    ("layer", "shape", "expected"),
    [
        (nn.Conv2d(3, 8, 3), (3, 6, 6), 8 * 4 * 4 * 27),
        (nn.Conv2d(8, 8, 3, stride=2, padding=1, groups=8), (8, 6, 6), 8 * 3 * 3 * 9),
        (nn.ConvTranspose2d(4, 2, 2, stride=2), (4, 3, 3), 4 * 3 * 3 * 8),
        (nn.Linear(5, 7), (5,), 35),
        (nn.Linear(5, 7), (2, 5), 70),
    ],
)
def test_by_hand(layer: nn.Module, shape: tuple[int, ...], expected: int) -> None:
    graph = capture(layer.eval(), (torch.zeros(2, *shape),))
    assert num_macs(graph, weighted_layers(graph)[0]) == expected
