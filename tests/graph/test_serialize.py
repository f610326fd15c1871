"""Graphs as JSON: the same outputs and the same text after a round trip, and nothing else is read."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch
from torch.fx import GraphModule

import zoo
from halfstep.errors import GraphError
from halfstep.graph.check import check
from halfstep.graph.run import run
from halfstep.graph.serialize import duplicate, from_json, to_json


def round_trip(graph: GraphModule) -> GraphModule:
    return from_json(json.loads(json.dumps(to_json(graph))), {key: value.clone() for key, value in graph.state_dict().items()})


def assert_equal(first: GraphModule, second: GraphModule, inputs: tuple[torch.Tensor, ...]) -> None:
    outputs = [zoo.leaves(run(graph, inputs)) for graph in (first, second)]
    assert all(torch.equal(a, b) for a, b in zip(*outputs, strict=True))


@pytest.mark.parametrize("name", zoo.NAMES)
def test_float_graphs(name: str) -> None:
    graph = zoo.once_captured(name)
    copy = round_trip(graph)
    check(copy)
    assert json.dumps(to_json(copy)) == json.dumps(to_json(graph))
    assert copy.meta == {key: value for key, value in graph.meta.items() if key != "witness"}
    assert [node.meta for node in copy.graph.nodes] == [node.meta for node in graph.graph.nodes]
    assert_equal(graph, copy, zoo.ZOO[name].inputs())


@pytest.mark.parametrize("name", zoo.REPRESENTATIVE)
def test_quantized_graphs(name: str) -> None:
    graph = zoo.quantized(name).model
    copy = round_trip(graph)
    assert json.dumps(to_json(copy)) == json.dumps(to_json(graph))
    assert_equal(graph, copy, zoo.ZOO[name].inputs())


def test_the_outputs_keep_their_structure() -> None:
    outputs = run(round_trip(zoo.once_captured("dict_output")), zoo.ZOO["dict_output"].inputs())
    assert list(outputs) == ["scores", "features"]
    assert isinstance(run(round_trip(zoo.once_captured("tuple_output")), zoo.ZOO["tuple_output"].inputs()), tuple)


def test_a_duplicate_shares_nothing() -> None:
    graph = zoo.once_captured("residual")
    copy = duplicate(graph)
    assert not {t.data_ptr() for t in graph.state_dict().values()} & {t.data_ptr() for t in copy.state_dict().values() if t.numel()}
    with torch.no_grad():
        for parameter in copy.parameters():
            parameter.zero_()
    assert zoo.relative(run(graph, zoo.ZOO["residual"].inputs()), zoo.eager("residual", zoo.ZOO["residual"].inputs())[0]) <= 1e-6


@pytest.mark.parametrize(
    "name",
    [
        "aten.nothing.default",
        "aten.conv2d",
        "aten.conv2d.nothing",
        "os.system",
        "builtins.eval",
        "operator.attrgetter",
        "aten.__class__.default",
    ],
)
def test_operators_it_does_not_know_are_refused(name: str) -> None:
    graph = zoo.once_captured("residual")
    saved = json.loads(json.dumps(to_json(graph)))
    next(entry for entry in saved["nodes"] if entry["op"] == "call_function")["target"] = name
    with pytest.raises(GraphError, match="operator"):
        from_json(saved, dict(graph.state_dict()))


def test_another_format_is_refused() -> None:
    graph = zoo.once_captured("residual")
    with pytest.raises(GraphError, match=r"format 99; this version .* reads format 2"):
        from_json({**to_json(graph), "format": 99}, dict(graph.state_dict()))


def test_missing_weights_are_named() -> None:
    graph = zoo.once_captured("residual")
    state = {key: value for key, value in graph.state_dict().items() if graph.meta["names"].get(key) != "conv2.weight"}
    with pytest.raises(GraphError, match=r"'conv2.weight' are missing"):
        from_json(to_json(graph), state)


def test_an_argument_of_unknown_kind_is_refused() -> None:
    graph = zoo.once_captured("residual")
    saved: dict[str, Any] = json.loads(json.dumps(to_json(graph)))
    next(entry for entry in saved["nodes"] if entry["op"] == "call_function")["args"][-1] = {"pickle": "x"}
    with pytest.raises(GraphError, match="unknown kind 'pickle'"):
        from_json(saved, dict(graph.state_dict()))


def test_numbers_json_has_no_word_for() -> None:
    """Infinities, types and slices in arguments."""

    class Odd(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = x.masked_fill(x > 0, float("-inf")).softmax(-1).to(torch.float64).to(torch.float32)
            return torch.clamp(x, min=0.125) + torch.zeros(3, dtype=torch.float32)

    from halfstep.graph.capture import capture

    x = torch.randn(4, 3)
    graph = capture(Odd(), (x,))
    assert torch.equal(round_trip(graph)(x), graph(x))
