"""Where a network breaks: the first tensor, in the order of computation, that is not finite."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.fx import GraphModule, Node

from halfstep.graph.edges import quantizer_of
from halfstep.graph.run import observe


def first_broken(network: GraphModule, inputs: tuple[Tensor, ...]) -> str | None:
    """In words and by the user's name, the first parameter or output that holds NaN or infinite values; None where all are finite."""
    found: list[str] = []

    def see(node: Node, value: Tensor) -> Tensor:
        if not found and isinstance(value, Tensor) and value.is_floating_point() and not bool(torch.isfinite(value).all()):
            name = str(node.meta["name"]).partition(":")[0]
            kind = (
                "what the quantizer makes of"
                if quantizer_of(node) is not None
                else "the parameter"
                if node.op == "get_attr"
                else "the output of"
            )
            found.append(f"{kind} '{name}'")
        return value

    observe(network, inputs, set(network.graph.nodes) - {node for node in network.graph.nodes if node.op == "output"}, see)
    return found[0] if found else None
