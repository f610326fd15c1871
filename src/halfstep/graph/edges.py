"""Which edges of a graph are quantized, and by what."""

from __future__ import annotations

from torch.fx import GraphModule, Node

from halfstep.graph.names import operator_name
from halfstep.graph.operators import CONCATENATIONS, Role, module_of, role_of, weighted_layer
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


def unquantized(node: Node) -> Node:
    """The node behind all quantizers: a tensor may be rounded more than once."""
    while quantizer_of(node) is not None:
        node = behind_quantizer(node)
    return node


def activation_quantizers(graph: GraphModule) -> dict[str, Node]:
    """By path: the node each activation quantizer belongs to.

    That is the source of its first call, or, where a concatenation shares it with its operands, the concatenation: all values are there.
    """
    found: dict[str, Node] = {}
    for node in graph.graph.nodes:
        quantizer = quantizer_of(node)
        if isinstance(quantizer, UniformQuantizer) and not is_weight_edge(node):
            source, path = behind_quantizer(node), str(node.target)
            if path not in found or _joins(source, path):
                found[path] = source
    return found


def rounded_tensors(graph: GraphModule) -> set[Node]:
    """What owns an activation quantizer, and what is computed onto the grid of a concatenation: where real values become codes."""
    sources = {
        behind_quantizer(node)
        for node in graph.graph.nodes
        if isinstance(quantizer_of(node), UniformQuantizer) and not is_weight_edge(node)
    }
    return set(activation_quantizers(graph).values()) | {source for source in sources if role_of(source) is not Role.PASS}


def _joins(node: Node, path: str) -> bool:
    """Whether ``node`` is a concatenation whose operands are all on the grid of the quantizer at ``path``."""
    operands = node.args[0] if operator_name(node) in CONCATENATIONS else None
    return isinstance(operands, (list, tuple)) and all(isinstance(x, Node) and str(x.target) == path for x in operands)


def is_weight_edge(node: Node) -> bool:
    """Whether a quantizer node stands between a stored weight and a layer."""
    return any((layer := weighted_layer(user)) is not None and layer.weight is node for user in node.users)
