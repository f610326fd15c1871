"""The edges of a network in training that have learned quantizers."""

from __future__ import annotations

from torch import nn
from torch.fx import GraphModule, Node

from halfstep.graph.edges import behind_quantizer, is_weight_edge, quantizer_of
from halfstep.graph.operators import weighted_layers
from halfstep.quantizers import AbstractLearnedQuantizer


def learned_weights(network: GraphModule) -> list[tuple[nn.Parameter, AbstractLearnedQuantizer]]:
    """Every stored weight that has a learned quantizer, with it."""
    found = {}
    for layer in weighted_layers(network):
        quantizer, source = quantizer_of(layer.weight), behind_quantizer(layer.weight)
        if isinstance(quantizer, AbstractLearnedQuantizer) and source.op == "get_attr":
            found[str(source.target)] = network.get_parameter(str(source.target)), quantizer
    return list(found.values())


def learned_activations(network: GraphModule) -> dict[Node, AbstractLearnedQuantizer]:
    """By the node that carries them, the tensors that have a learned quantizer and are no stored weights, in the order of computation."""
    found = {}
    for node in network.graph.nodes:
        quantizer = quantizer_of(node)
        if isinstance(quantizer, AbstractLearnedQuantizer) and behind_quantizer(node).op != "get_attr":
            found[behind_quantizer(node)] = quantizer
    return found


def is_stored_weight(node: Node) -> bool:
    """Whether a quantizer node stands between a parameter and a layer that multiplies by it."""
    return is_weight_edge(node) and behind_quantizer(node).op == "get_attr"


def leave_first_call(network: GraphModule, path: str) -> None:
    """Of the quantizer at ``path``, where it is an activation's: no other call."""
    calls = [node for node in network.graph.nodes if node.op == "call_module" and str(node.target) == path and not is_stored_weight(node)]
    for node in calls[1:]:
        node.replace_all_uses_with(node.args[0])
        network.graph.erase_node(node)
