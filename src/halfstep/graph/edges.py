"""Which edges of a graph are quantized, and by what."""

from __future__ import annotations

from torch.fx import GraphModule, Node

from halfstep.graph.operators import module_of, weighted_layer
from halfstep.quantizers import AbstractQuantizer, UniformQuantizer


def quantizer_of(node: object) -> AbstractQuantizer | None:
    """The quantizer a node calls; None for every other node or value."""
    if isinstance(node, Node) and node.op == "call_module" and isinstance(module := module_of(node), AbstractQuantizer):
        return module
    return None


def behind_quantizer(node: Node) -> Node:
    """The node whose output a quantizer node quantizes; any other node is returned as it is."""
    source = node.args[0] if quantizer_of(node) is not None else node
    assert isinstance(source, Node)
    return source


def activation_quantizers(graph: GraphModule) -> dict[str, Node]:
    """By path: the node each activation quantizer belongs to, that is the source of its first call."""
    found: dict[str, Node] = {}
    for node in graph.graph.nodes:
        quantizer = quantizer_of(node)
        if isinstance(quantizer, UniformQuantizer) and not is_weight_edge(node):
            found.setdefault(str(node.target), behind_quantizer(node))
    return found


def is_weight_edge(node: Node) -> bool:
    """Whether a quantizer node stands between a stored weight and a layer."""
    return any((layer := weighted_layer(user)) is not None and layer.weight is node for user in node.users)
