"""Scores: what lies between the last layers and the outputs."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from halfstep.graph.capture import capture
from halfstep.graph.names import operator_name
from halfstep.graph.scores import find_scores


class _TwoHeads(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body, self.head, self.other = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 4, 1), nn.Linear(8, 5)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x = torch.relu(self.body(x))
        return torch.relu(self.head(x)).mean((2, 3)), self.other(x.mean((2, 3))).softmax(1)


def test_back_to_the_last_layers() -> None:
    """Every output is followed back to its own layer; the body is no score."""
    graph = capture(_TwoHeads(), (torch.randn(2, 3, 6, 6),))
    names = {operator_name(node) for node in find_scores(graph) if node.op == "call_function"}
    assert sorted(names) == ["conv2d", "linear", "mean", "relu", "softmax"]


def test_an_output_without_a_layer_goes_back_to_the_input() -> None:
    graph = capture(nn.Sequential(nn.ReLU(), nn.AvgPool2d(2)), (torch.randn(2, 3, 6, 6),))
    assert {node.op for node in find_scores(graph)} >= {"placeholder"}


def test_a_product_ends_it() -> None:
    class _Product(nn.Module):
        def forward(self, x: Tensor, y: Tensor) -> Tensor:
            return torch.matmul(torch.relu(x), y) + 1

    graph = capture(_Product(), (torch.randn(2, 3, 4), torch.randn(2, 4, 5)))
    assert "relu" not in {operator_name(node) for node in find_scores(graph) if node.op == "call_function"}
