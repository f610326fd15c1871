"""The quick way to ONNX: a graph whose every operator is in the tables of `translation`, written down directly.

PyTorch's exporter (`torch_exporter`) knows every operator, but traces the network again twice and takes several seconds however small
it is, minutes for a large transformer. Nothing of that is needed for operators that have an ONNX counterpart, or a few: one row of
`TRANSLATIONS` an operator. A graph with anything else is not half translated: `Untranslatable` is raised before anything is kept, and
PyTorch's exporter takes the whole graph. Both ways are tested to give equal outputs.
"""

from __future__ import annotations

import operator
from typing import Any

import onnx_ir as ir
import torch
from torch import nn
from torch.fx import GraphModule, Node

from halfstep.export.mark import DOMAIN
from halfstep.export.translation import copies, elementwise, layers, movement, normalization, pooling, recurrent
from halfstep.export.translation.writer import DATA_TYPES, OPSET, Result, Translate, Untranslatable, Writer
from halfstep.graph.edit import attribute
from halfstep.graph.operators import module_of


def translate(graph: GraphModule) -> ir.Model:
    """``graph``, marked by `mark`, as an ONNX model with ``halfstep::Edge`` nodes; raises `Untranslatable`."""
    writer = Writer(graph)
    inputs: list[ir.Value] = []
    outputs: list[ir.Value] = []
    for node in graph.graph.nodes:
        if node.op == "placeholder":
            inputs.append(_input(node))
            writer.values[node] = inputs[-1]
        elif node.op == "get_attr":
            writer.values[node] = writer.constant(str(node.target), attribute(graph, node).numpy())
        elif node.op == "output":
            for index, leaf in enumerate(_leaves(node.args[0])):
                outputs.append(_output(writer, leaf, index, outputs))
        elif not node.meta.get("is_number"):
            writer.values[node] = _call(writer, node)
    used = {value for node in writer.nodes for value in node.inputs} | set(outputs)
    onnx_graph = ir.Graph(
        inputs, outputs, nodes=writer.nodes, name="halfstep", opset_imports={"": OPSET, DOMAIN: 1},
        initializers=[value for value in writer.constants.values() if value in used],
    )  # fmt: skip
    return ir.Model(onnx_graph, ir_version=10)


def _input(node: Node) -> ir.Value:
    shape = ir.Shape(["batch" if size is None else size for size in node.meta["shape"]])
    dtype = node.meta["dtype"]
    if dtype not in DATA_TYPES or list(node.meta["shape"][1:]).count(None):
        raise Untranslatable(f"input of type {dtype} and shape {node.meta['shape']}")
    return ir.Value(name=str(node.target), shape=shape, type=ir.TensorType(DATA_TYPES[dtype]))


def _leaves(outputs: Any) -> list[Node]:
    """The tensors a network returns, in order, whatever it wraps them in (the graph holds them flat)."""
    leaves = list(outputs) if isinstance(outputs, (list, tuple)) else [outputs]
    if not leaves or not all(isinstance(leaf, Node) for leaf in leaves):
        raise Untranslatable("output")
    return leaves


def output_name(index: int) -> str:
    """ "output", "output_1" ...: what the outputs of every exported file are called, in the network's own order."""
    return "output" if index == 0 else f"output_{index}"


def _output(writer: Writer, leaf: Node, index: int, earlier: list[ir.Value]) -> ir.Value:
    value = writer.value(leaf)
    if value.producer() is None or value in earlier:  # an input, a constant, another output too
        value = writer.emit("Identity", [value], leaf)
    value.name = output_name(index)
    value.shape = ir.Shape([f"size_{axis}" if size is None and axis else size or "batch" for axis, size in enumerate(leaf.meta["shape"])])
    return value


def _call(writer: Writer, node: Node) -> Result:
    if node.op == "call_module":
        return _module(writer, node)
    if node.target is operator.getitem:
        several = writer.values[node.args[0]]  # type: ignore[index]
        assert isinstance(several, tuple)
        return several[node.args[1]]  # type: ignore[index]
    if node.target not in _BY_TARGET:
        raise Untranslatable(str(node.target))
    schema = node.target._schema.arguments  # type: ignore[union-attr]
    arguments = [argument.default_value if argument.has_default_value() else None for argument in schema]
    arguments[: len(node.args)] = node.args
    for name, value in node.kwargs.items():
        arguments[next(index for index, argument in enumerate(schema) if argument.name == name)] = value
    return _BY_TARGET[node.target](writer, node, arguments)


def _module(writer: Writer, node: Node) -> Result:
    if isinstance(module_of(node), nn.modules.dropout._DropoutNd):
        return writer.value(node.args[0])
    return normalization.batch_norm(writer, node)


def _edge(writer: Writer, node: Node, arguments: list[Any]) -> ir.Value:
    return writer.emit("Edge", [writer.value(arguments[0])], node, edge=arguments[1])


TRANSLATIONS: dict[str, Translate] = {
    **layers.TRANSLATIONS,
    **pooling.TRANSLATIONS,
    **elementwise.TRANSLATIONS,
    **movement.TRANSLATIONS,
    **copies.TRANSLATIONS,
    **normalization.TRANSLATIONS,
    **recurrent.TRANSLATIONS,
}
"""ATen operator and overload -> how it is written in ONNX."""


def _overload(name: str) -> Any:
    packet, overload = name.split(".")
    return getattr(getattr(torch.ops.aten, packet), overload)


_BY_TARGET: dict[Any, Translate] = {_overload(name): translation for name, translation in TRANSLATIONS.items()}
_BY_TARGET[torch.ops.halfstep.edge.default] = _edge
