"""Keep ONNX Runtime from taking a padding with 0 for a padding of the pooling behind it.

A pooling leaves out what it pads itself: the padding counts as minus infinity in a maximum, and in a window that ceil_mode lets end behind
the edge it changes the size of the result. ONNX Runtime up to 1.31 fuses Pad with MaxPool and AveragePool all the same; measured with
1.31.1, MaxPool has other values wherever a window at the edge is negative, and with ceil_mode both have other shapes. 1.32.0 is right. No
version fuses a Pad that names its axes, and naming them all changes nothing.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from halfstep.export.nodes import initializer

_POOLINGS = ("MaxPool", "AveragePool")
_AXES = 3  # the place of the axes among the inputs of Pad


def guard_pools(graph: ir.Graph) -> None:
    """Name the axes of every Pad that a pooling reads as it is, in place."""
    for node in list(graph):
        if node.op_type != "Pad" or len(node.inputs) > _AXES or not any(use.node.op_type in _POOLINGS for use in node.outputs[0].uses()):
            continue
        amounts = ir.convenience.get_const_tensor(node.inputs[1])  # type: ignore[arg-type]
        if amounts is None:
            continue
        num_axes = amounts.size // 2
        node.resize_inputs(_AXES + 1)
        node.replace_input_with(_AXES, initializer(graph, f"axes_0_to_{num_axes - 1}", np.arange(num_axes)))
