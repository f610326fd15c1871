"""Where zeros come in at the borders of a tensor: what holds for all of its values does not hold there."""

from __future__ import annotations

from torch.fx import GraphModule, Node

from halfstep.graph.edit import attribute
from halfstep.graph.names import operator_name
from halfstep.graph.operators import WeightedLayer, argument, linear_operator


def layer_pads(graph: GraphModule, layer: WeightedLayer) -> bool:
    """Whether the layer puts zeros around its input."""
    operator = linear_operator(layer, attribute(graph, layer.weight).shape[2:])
    return any(operator.padding) or any(operator.end_padding)


def keeps_constants(node: Node) -> bool:
    """Whether an operator that is no layer makes the same constant of a constant: no zeros come in, and means are means."""
    name = operator_name(node)
    if name.startswith("avg_pool"):
        padding = argument(node, "padding", 0)
        counts_zeros = any([padding] if isinstance(padding, int) else padding) and bool(argument(node, "count_include_pad", True))
        return not counts_zeros and (name == "avg_pool1d" or argument(node, "divisor_override", None) is None)
    return not (name == "constant_pad_nd" or (name == "pad" and argument(node, "mode", "constant") == "constant"))
