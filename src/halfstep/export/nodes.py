"""The few ways an ONNX graph is changed."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir


def initializer(graph: ir.Graph, name: str, array: np.ndarray[Any, Any], data_type: ir.DataType | None = None) -> ir.Value:
    """A new named constant of the file; returned again if it is already there."""
    if name not in graph.initializers:
        tensor = ir.tensor(array, dtype=data_type, name=name)
        graph.initializers[name] = ir.Value(name=name, const_value=tensor, shape=ir.Shape(array.shape), type=ir.TensorType(tensor.dtype))
    return graph.initializers[name]


def insert(
    graph: ir.Graph, before: ir.Node, op_type: str, inputs: list[Any], name: str, data_type: Any, domain: str = "", **attributes: Any
) -> ir.Value:
    """A new node in front of ``before``; returns its output, called ``name``."""
    node = ir.node(op_type, inputs, attributes=attributes, name=name, domain=domain)
    node.outputs[0].name, node.outputs[0].dtype = name, data_type
    graph.insert_before(before, node)
    return node.outputs[0]


def replace(graph: ir.Graph, old: ir.Value, new: ir.Value) -> None:
    """Let everyone who read ``old`` read ``new``; an output of the graph keeps its name."""
    new.shape = new.shape if new.shape is not None else old.shape
    for index, output in enumerate(graph.outputs):
        if output is old:
            name, old.name = old.name, f"{old.name}.replaced"
            new.name = name
            graph.outputs[index] = new
    for use in list(old.uses()):
        use.node.replace_input_with(use.idx, new)
