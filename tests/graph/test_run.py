"""`run` and `observe`: batches cut to a fixed size and put together again, inputs that do not fit, tensors shown and replaced."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.fx import Node

import zoo
from halfstep.errors import DataError
from halfstep.graph.run import cut, observe, run


@pytest.mark.parametrize("num_samples", [1, 2, 3, 5, 6])
def test_a_fixed_batch_size_takes_any_number_of_samples(num_samples: int) -> None:
    graph = zoo.captured("static_batch")
    (x,) = zoo.ZOO["static_batch"].inputs(num_samples)
    output = run(graph, (x,))
    with torch.no_grad():
        expected = torch.cat([zoo.ZOO["static_batch"].model()(torch.cat([sample, sample]))[:1] for sample in x.split(1)])
    assert zoo.relative(output, expected) <= 1e-5  # other batch sizes, other blocking of the sums


def test_inputs_that_do_not_fit() -> None:
    graph, x = zoo.captured("residual"), zoo.ZOO["residual"].inputs()[0]
    with pytest.raises(DataError, match=r"takes 1 input\(s\), the data gives 2"):
        run(graph, (x, x))
    with pytest.raises(DataError, match=r"must have the shape \[batch, 3, 8, 8\], the data has \[4, 8, 8, 3\].*order of the axes"):
        run(graph, (x.permute(0, 2, 3, 1),))
    with pytest.raises(DataError, match=r"must have the shape"):
        run(graph, (x[0],))
    with pytest.raises(DataError, match=r"'x' must be torch.float32, the data is torch.float64: convert"):
        run(graph, (x.double(),))
    with pytest.raises(DataError, match=r"torch.uint8"):
        run(graph, (x.to(torch.uint8),))


def test_two_inputs_of_different_length() -> None:
    graph, (x, y) = zoo.captured("two_inputs"), zoo.ZOO["two_inputs"].inputs(4)
    with pytest.raises(DataError):
        run(graph, (x, y[:3]))


def test_no_gradients_are_recorded() -> None:
    assert not run(zoo.captured("residual"), zoo.ZOO["residual"].inputs()).requires_grad


@pytest.mark.parametrize("name", ["residual", "two_inputs", "dict_output", "static_batch"])
def test_observe_computes_the_same_and_shows_what_was_asked_for(name: str) -> None:
    graph, inputs = zoo.captured(name), zoo.ZOO[name].inputs()
    nodes = {node for node in graph.graph.nodes if node.op.startswith("call") and isinstance(node.meta.get("shape"), tuple)}
    seen: dict[str, Tensor] = {}

    def see(node: Node, x: Tensor) -> Tensor:
        seen[node.meta["name"]] = x
        return x

    outputs = zoo.leaves(observe(graph, cut(graph, inputs)[0][0], nodes, see))
    assert set(seen) == {node.meta["name"] for node in nodes}
    for node in nodes:
        assert all(want in (None, got) for want, got in zip(node.meta["shape"], seen[node.meta["name"]].shape, strict=True))
    assert all(torch.equal(a, b) for a, b in zip(outputs, zoo.leaves(run(graph, inputs)), strict=True))


def test_what_observe_is_given_goes_on_in_its_place() -> None:
    graph, inputs = zoo.captured("residual"), zoo.ZOO["residual"].inputs()
    node = next(node for node in graph.graph.nodes if node.meta["name"] == "flatten")
    output = observe(graph, inputs, {node}, lambda _, x: torch.zeros_like(x))
    bias = zoo.ZOO["residual"].model().fc.bias
    assert torch.allclose(output, bias.expand_as(output), atol=0, rtol=1e-6)
