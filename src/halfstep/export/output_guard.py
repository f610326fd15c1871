"""Keep ONNX Runtime from rounding what leaves the network in float.

ONNX Runtime takes a QuantizeLinear through a Transpose or Reshape towards what computes the tensor. Where that tensor is an output of the
network as well, it then gives out the rounded one, without what lies beyond the grid; seen in 1.31.1. Behind a Max with the least float32,
which changes nothing, the output is what was computed: the tensor has two readers then, and the QuantizeLinear stays where it is.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from halfstep.export.nodes import initializer

_MOVING = ("Transpose", "Reshape", "Squeeze", "Unsqueeze", "Flatten", "Slice", "Identity", "MaxPool")
_LEAST = np.finfo(np.float32).min


def guard_outputs(graph: ir.Graph) -> None:
    """Put a Max behind every output in float whose moved values are quantized, in place."""
    for index, value in enumerate(graph.outputs):
        producer = value.producer()
        is_computed = producer is not None and producer.op_type != "DequantizeLinear" and value.dtype is ir.DataType.FLOAT
        if is_computed and any(_leads_to_codes(use.node) for use in value.uses() if use.node.op_type in _MOVING):
            graph.outputs[index] = _guarded(graph, value)


def _leads_to_codes(node: ir.Node) -> bool:
    if node.op_type == "QuantizeLinear":
        return True
    return node.op_type in _MOVING and any(_leads_to_codes(use.node) for use in node.outputs[0].uses())


def _guarded(graph: ir.Graph, value: ir.Value) -> ir.Value:
    """The same tensor under its name; what was computed is called otherwise."""
    node = ir.node("Max", [value, initializer(graph, "least_float", np.array(_LEAST, np.float32))], name=f"{value.name}.guard")
    guarded = node.outputs[0]
    guarded.name, guarded.type, guarded.shape = value.name, value.type, value.shape
    value.name = f"{value.name}.computed"
    graph.append(node)
    return guarded
