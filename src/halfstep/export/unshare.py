"""Weights that two layers read, as a copy for each of them: for sessions alone, files keep one.

ONNX Runtime's rewrite of int8 weights to uint8 (`session.EXACT_PRODUCTS`) gives all results of one stored tensor the same name, and fails
where it meets a tensor twice.
"""

from __future__ import annotations

import onnx
import onnx_ir as ir


def unshared(model: onnx.ModelProto | ir.Model) -> bytes:
    """``model`` with a DequantizeLinear and a stored int8 tensor for every reader, serialized."""
    changed = model if isinstance(model, ir.Model) else ir.serde.deserialize_model(model)
    graph = changed.graph
    stored = [value for value in graph.initializers.values() if value.dtype == ir.DataType.INT8]
    for value in stored:
        for node, _ in tuple(value.uses()):
            if node.op_type == "DequantizeLinear":
                _copy_for_readers(graph, node)
    for value in stored:
        for number, (node, place) in enumerate(tuple(value.uses())[1:], 1):
            copy = ir.Value(name=f"{value.name}:copy_{number}", type=value.type, shape=value.shape, const_value=value.const_value)
            graph.initializers[str(copy.name)] = copy
            node.replace_input_with(place, copy)
    serialized: bytes = ir.to_proto(changed).SerializeToString()
    return serialized


def _copy_for_readers(graph: ir.Graph, node: ir.Node) -> None:
    """One DequantizeLinear a reader."""
    for number, (reader, place) in enumerate(tuple(node.outputs[0].uses())[1:], 1):
        copy = ir.node("DequantizeLinear", inputs=node.inputs, attributes=dict(node.attributes))
        copy.name, copy.outputs[0].name = f"{node.name}:copy_{number}", f"{node.outputs[0].name}:copy_{number}"
        graph.insert_before(reader, copy)
        reader.replace_input_with(place, copy.outputs[0])
