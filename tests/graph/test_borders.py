"""Where zeros come in: a constant tensor shows it."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import zoo
from halfstep.graph.borders import keeps_constants, layer_pads
from halfstep.graph.capture import capture
from halfstep.graph.operators import weighted_layers


@pytest.mark.parametrize(
    "function",
    [
        lambda x: F.avg_pool2d(x, 2),
        lambda x: F.avg_pool2d(x, 3, 2, ceil_mode=True),
        lambda x: F.avg_pool2d(x, 3, padding=1),
        lambda x: F.avg_pool2d(x, 3, padding=1, count_include_pad=False),
        lambda x: F.avg_pool2d(x, 2, divisor_override=3),
        lambda x: F.avg_pool1d(x[:, :, 0], 3, padding=1),
        lambda x: F.avg_pool1d(x[:, :, 0], 3),
        lambda x: F.pad(x, (1, 1)),
        lambda x: F.pad(x, (1, 1, 1, 1), mode="reflect"),
        lambda x: F.max_pool2d(x, 3, padding=1),
        lambda x: F.interpolate(x, scale_factor=2),
        lambda x: x.mean((2, 3)),
    ],
)
def test_as_a_constant_tensor_shows(function: Callable[[Tensor], Tensor]) -> None:
    x = torch.full((2, 3, 8, 8), 5.0)
    graph = capture(zoo.Applied(function), (x,))
    found = all(keeps_constants(node) for node in graph.graph.nodes if node.op == "call_function")
    assert found == bool(torch.allclose(function(x), torch.tensor(5.0)))


@pytest.mark.parametrize(("padding", "pads"), [(0, False), (1, True), ("same", True), ("valid", False)])
def test_layers_that_pad(padding: int | str, pads: bool) -> None:
    graph = capture(nn.Conv2d(3, 4, 3, padding=padding), (torch.randn(2, 3, 8, 8),))
    assert layer_pads(graph, weighted_layers(graph)[0]) is pads
