"""The edges of a network in training that have learned quantizers."""

from __future__ import annotations

from torch import nn
from torch.fx import GraphModule, Node

from halfstep.graph.edges import behind_quantizer, quantizer_of
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
