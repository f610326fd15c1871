"""In-place operators: which graphs are rewritten, and that reads before and after a write see what they saw."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import zoo
from halfstep.errors import ModelError
from halfstep.graph.capture import capture
from halfstep.graph.functionalize import is_in_place


def read_before(x: Tensor) -> Tensor:
    y = x * 2
    z = y + 1
    y.add_(5)
    return z * y


def view_read_after(x: Tensor) -> Tensor:
    y = x * 2
    v = y[:, 1:]
    y.mul_(3)
    return v + 1


def base_read_after(x: Tensor) -> Tensor:
    y = x * 2
    y[:, 1:].add_(1)
    return y


def flattened_base(x: Tensor) -> Tensor:
    y = x * 2
    y.flatten(1).relu_()
    return y


def result_of_in_place(x: Tensor) -> Tensor:
    y = x * 2
    return y.sub_(1) + y


def reshaped(x: Tensor) -> Tensor:
    y = x * 2
    z = y.reshape(-1)
    z += 1
    return y + z.view_as(y)


def chunk_written(x: Tensor) -> Tensor:
    y = x * 2
    a, b = y.chunk(2, 1)
    a.add_(b)
    return y


def dropout_written(x: Tensor) -> Tensor:
    y = x * 2
    z = F.dropout(y, 0.5, training=False)  # in eval mode that is y itself
    z.add_(1)
    return y + z


def chain(x: Tensor) -> Tensor:
    return F.relu_(F.hardtanh_(F.silu(x.clone(), inplace=True), -0.1, 0.4)).add_(1).mul_(2)


def filled(x: Tensor) -> Tensor:
    y = torch.zeros_like(x)
    y[:, ::2] = x[:, ::2]
    y.masked_fill_(x > 1, -1.0)
    return y


def input_written_through_a_copy(x: Tensor) -> Tensor:
    y = x.clone()
    y[0] = 0
    return x + y


@pytest.mark.parametrize(
    "function",
    [
        read_before, view_read_after, base_read_after, flattened_base, result_of_in_place, reshaped, chunk_written, dropout_written, chain,
        filled, input_written_through_a_copy,
    ],
)  # fmt: skip
def test_writes_are_seen_where_they_were_seen(function: Callable[[Tensor], Tensor]) -> None:
    x = torch.randn(3, 4)
    graph = capture(zoo.Applied(function), (x.clone(),))
    assert not any(is_in_place(node) for node in graph.graph.nodes)
    assert torch.equal(graph(x.clone()), function(x.clone()))
    assert torch.equal(graph(x[:1].clone()), function(x[:1].clone()))


@pytest.mark.parametrize("name", ["in_place", "slice_assignment", "view_mutation"])
def test_no_operator_changes_its_arguments(name: str) -> None:
    graph = zoo.captured(name)
    assert not any(is_in_place(node) for node in graph.graph.nodes)


def test_batch_norms_survive_the_way_round_torchs_functionalization() -> None:
    names = {type(module).__name__ for module in zoo.captured("slice_assignment").modules()}
    assert "BatchNorm2d" in names


def test_an_input_that_is_written_is_refused() -> None:
    def write(x: Tensor) -> Tensor:
        x.add_(1)
        return x * 2

    x = torch.ones(2, 3)
    with pytest.raises(ModelError, match=r"writes into 'x' .*Keep state out of forward"):
        capture(zoo.Applied(write), (x,))
    assert torch.equal(x, torch.ones(2, 3))


def test_a_buffer_that_counts_is_refused() -> None:
    class Counting(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("calls", torch.zeros(1))

        def forward(self, x: Tensor) -> Tensor:
            self.calls.add_(1)
            return x + self.calls

    model = Counting()
    with pytest.raises(ModelError, match=r"writes into 'calls' .*Keep state out of forward"):
        capture(model, (torch.ones(2, 3),))
    assert float(model.calls) == 0
