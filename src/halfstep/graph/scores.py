"""Tensors that become the network's outputs without a further layer: scores, and what they are averages or sums of."""

from __future__ import annotations

from torch.fx import GraphModule, Node

from halfstep.graph.operators import Role, role_of

_LAST = (Role.WEIGHTED, Role.PRODUCT)


def find_scores(graph: GraphModule) -> set[Node]:
    """What the outputs depend on, back to the last layers and products, whose results belong to it. Quantizers are among the nodes."""
    found: set[Node] = set()
    waiting = [source for node in graph.graph.nodes if node.op == "output" for source in node.all_input_nodes]
    while waiting:
        node = waiting.pop()
        if node not in found:
            found.add(node)
            waiting.extend(() if role_of(node) in _LAST else node.all_input_nodes)
    return found
