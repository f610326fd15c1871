"""Keep ONNX Runtime from an integer softmax that overflows.

Softmax between DequantizeLinear and QuantizeLinear becomes QLinearSoftmax. It computes e * c / sum with c = floor(1 / scale) in 32
unsigned bits, and the product e * c passes them where the scale of the result is small. Measured with ONNX Runtime 1.31.1 on rows of n
values, n from 2 to 1,000: right up to c = 128 n, then codes are wrong by up to 255. Calibration lays the grid over 0 to 1; but scales that
are learned follow attention that looks at everything alike, whose largest value is little more than 1 / n. Behind a Max with the least
float32, which changes nothing, the pattern is none, and softmax is computed in float.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from halfstep.export.nodes import initializer, insert

_LARGEST_FACTOR = 128  # c / n
_FEWEST = 2  # values of a row whose length the file does not say
_MOVING = ("Transpose", "Reshape", "Squeeze", "Unsqueeze", "Slice", "Identity")
_LEAST = np.finfo(np.float32).min


def guard_softmax(graph: ir.Graph) -> None:
    """Put a Max in front of every softmax whose result has too small a scale, in place."""
    for node in list(graph):
        source = node.inputs[0].producer() if node.op_type == "Softmax" and node.inputs[0] is not None else None
        readers = _readers(node)
        if source is None or source.op_type != "DequantizeLinear" or not any(_has_small_scale(reader, node) for reader in readers):
            continue
        least = initializer(graph, "least_float", np.array(_LEAST, np.float32))
        name = f"{node.outputs[0].name}.guarded"
        node.replace_input_with(0, insert(graph, node, "Max", [node.inputs[0], least], name, ir.DataType.FLOAT))


def _readers(node: ir.Node) -> list[ir.Node]:
    """Who reads the node's result, as it is or moved: ONNX Runtime takes a QuantizeLinear in front of what moves."""
    direct = [use.node for use in node.outputs[0].uses()]
    return [found for reader in direct for found in (_readers(reader) if reader.op_type in _MOVING else [reader])]


def _has_small_scale(reader: ir.Node, softmax: ir.Node) -> bool:
    scale = reader.inputs[1].const_value if reader.op_type == "QuantizeLinear" and reader.inputs[1] is not None else None
    return scale is not None and 1 / float(scale.numpy().min()) > _LARGEST_FACTOR * _row_length(softmax)


def _row_length(softmax: ir.Node) -> int:
    shape = softmax.outputs[0].shape
    axis = softmax.attributes["axis"].as_int() if "axis" in softmax.attributes else -1
    size = None if shape is None else shape[axis]
    return size if isinstance(size, int) else _FEWEST
