"""Keep ONNX Runtime from integer poolings, and from fusions, that compute something else.

A pooling leaves out what it pads itself: the padding counts as minus infinity in a maximum, and in a window that ceil_mode lets end behind
the edge it changes the size of the result. ONNX Runtime up to 1.31 fuses Pad with MaxPool and AveragePool all the same; measured with
1.31.1, MaxPool has other values wherever a window at the edge is negative, and with ceil_mode both have other shapes. 1.32.0 is right. No
version fuses a Pad that names its axes, and naming them all changes nothing.

An average that counts its padding divides by what of a window lies on the tensor and its padding. QLinearAveragePool divides by the whole
window, also where ceil_mode lets it end behind the padding; seen in 1.32.0, off by up to 74 codes. Only PyTorch's exporter writes such
averages. Behind a Max with the least float32, which changes nothing, the average is taken in float, which is right.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from halfstep.export.nodes import initializer, insert

_LEAST = np.finfo(np.float32).min
_POOLINGS = ("MaxPool", "AveragePool")
_AXES = 3  # the place of the axes among the inputs of Pad


def guard_pools(graph: ir.Graph) -> None:
    """Both guards, in place."""
    _name_axes(graph)
    for node in list(graph):
        source = node.inputs[0].producer() if node.op_type == "AveragePool" and node.inputs[0] is not None else None
        if source is not None and source.op_type == "DequantizeLinear" and _counts_padding_and_ends_behind(node):
            least = initializer(graph, "least_float", np.array(_LEAST, np.float32))
            name = f"{node.outputs[0].name}.guarded"
            node.replace_input_with(0, insert(graph, node, "Max", [node.inputs[0], least], name, ir.DataType.FLOAT))


def _counts_padding_and_ends_behind(pool: ir.Node) -> bool:
    flags = [name in pool.attributes and pool.attributes[name].as_int() for name in ("ceil_mode", "count_include_pad")]
    return all(flags) and "pads" in pool.attributes and any(pool.attributes["pads"].as_ints())


def _name_axes(graph: ir.Graph) -> None:
    """Name the axes of every Pad that a pooling reads as it is."""
    for node in list(graph):
        if node.op_type != "Pad" or len(node.inputs) > _AXES or not any(use.node.op_type in _POOLINGS for use in node.outputs[0].uses()):
            continue
        amounts = ir.convenience.get_const_tensor(node.inputs[1])  # type: ignore[arg-type]
        if amounts is None:
            continue
        num_axes = amounts.size // 2
        node.resize_inputs(_AXES + 1)
        node.replace_input_with(_AXES, initializer(graph, f"axes_0_to_{num_axes - 1}", np.arange(num_axes)))
