"""Every rule of `check`, broken once."""

from __future__ import annotations

import operator

import pytest
import torch
from torch import nn
from torch.fx import GraphModule, Node

import zoo
from halfstep.errors import GraphError
from halfstep.graph.check import check
from halfstep.graph.edges import quantizer_of
from halfstep.graph.edit import add_module, tensor_named
from halfstep.graph.serialize import duplicate
from halfstep.grid import Grid
from halfstep.quantizers import AccumulatorQuantizer, UniformQuantizer


def node_called(graph: GraphModule, name: str) -> Node:
    return next(node for node in graph.graph.nodes if node.meta["name"] == name)


@pytest.fixture
def graph() -> GraphModule:
    return zoo.captured("residual")


def test_a_sound_graph_passes(graph: GraphModule) -> None:
    check(graph)
    check(duplicate(zoo.quantized("residual").model))


def test_a_node_without_a_name(graph: GraphModule) -> None:
    node = node_called(graph, "conv2")
    node.meta = {}
    with pytest.raises(GraphError, match=rf"'{node.name}' has no name"):
        check(graph)


def test_two_nodes_of_one_name(graph: GraphModule) -> None:
    node_called(graph, "conv2").meta["name"] = "conv1"
    with pytest.raises(GraphError, match="2 nodes are called 'conv1'"):
        check(graph)


def test_an_operator_that_changes_its_argument(graph: GraphModule) -> None:
    node_called(graph, "relu#2").target = torch.ops.aten.relu_.default
    with pytest.raises(GraphError, match=r"aten.relu_.default at 'relu#2' changes its arguments"):
        check(graph)


def test_a_function_that_is_no_operator(graph: GraphModule) -> None:
    node_called(graph, "relu").target = nn.functional.gelu
    node_called(graph, "relu").target = len
    with pytest.raises(GraphError, match=r"'relu' calls .* not an ATen operator"):
        check(graph)


def test_python_arithmetic_on_sizes_is_allowed(graph: GraphModule) -> None:
    node_called(graph, "add").target = operator.add
    check(graph)


def test_a_method_call(graph: GraphModule) -> None:
    node = node_called(graph, "relu")
    with graph.graph.inserting_after(node):
        call = graph.graph.call_method("contiguous", (node,))
    call.meta["name"] = "late"
    with pytest.raises(GraphError, match="'late' calls the method contiguous"):
        check(graph)


def test_a_module_of_another_kind(graph: GraphModule) -> None:
    setattr(graph, str(node_called(graph, "bn1").target), nn.Conv2d(8, 8, 1))
    with pytest.raises(GraphError, match="'bn1' calls a Conv2d"):
        check(graph)


def test_a_module_that_does_not_exist(graph: GraphModule) -> None:
    node_called(graph, "bn1").target = "m_9"
    with pytest.raises((GraphError, RuntimeError), match="m_9"):
        check(graph)


def test_an_attribute_that_does_not_exist(graph: GraphModule) -> None:
    node_called(graph, "conv1.weight").target = "p_99"
    with pytest.raises((GraphError, RuntimeError), match="p_99"):
        check(graph)


def test_the_type_of_a_broken_reference(graph: GraphModule) -> None:
    """Torch's own lint must not speak first: its errors are not the user's."""
    node_called(graph, "conv1.weight").target = "p_99"
    with pytest.raises(GraphError):
        check(graph)


def test_an_attribute_that_is_not_finite(graph: GraphModule) -> None:
    with torch.no_grad():
        tensor_named(graph, "conv2.weight")[0, 0, 0, 0] = torch.nan
    with pytest.raises(GraphError, match=r"'conv2.weight' holds NaN"):
        check(graph)


def test_a_quantizer_with_two_inputs(graph: GraphModule) -> None:
    path = add_module(graph, "q", UniformQuantizer(Grid(8, signed=True)))
    add = node_called(graph, "add")
    with graph.graph.inserting_after(add):
        call = graph.graph.call_module(path, tuple(add.args))
    call.meta["name"] = "q"
    with pytest.raises(GraphError, match="'q' must have exactly one input"):
        check(graph)


def test_a_bias_whose_quantizers_are_elsewhere() -> None:
    graph = duplicate(zoo.quantized("residual").model)
    node = next(n for n in graph.graph.nodes if isinstance(quantizer_of(n), AccumulatorQuantizer))
    source = UniformQuantizer(Grid(8, signed=True))
    quantizer_of(node).sources = (source, source)
    with pytest.raises(GraphError, match=r"'.*bias.*' refers to a quantizer that is not in the graph"):
        check(graph)
