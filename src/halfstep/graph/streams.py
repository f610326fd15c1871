"""Streams: tensors over the same channels between which nothing but sums happens, so that any invertible matrix fits in.

    layers write   y = W_p x + b        tensors of the stream: y, y + y', y - y', averages, paddings ...        layers read   W_e y
                   W_p <- A W_p, b <- A b                                                                       W_e <- W_e A^-1

A: of C rows and columns, on the channels at every position. The residual stream of a stage of MobileNetV2, from its linear projections
to the expansions that read it, is one; so is what one layer writes and others read without a function between them. `graph/ties.py` tells
which channels belong together; a stream is a set of them that nothing binds, that no operator handles one by one (ReLU, max pooling, a
concatenation along the channels) and that no layer with groups writes or reads.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.fx import GraphModule, Node

from halfstep.graph.channels import mix_inputs, mix_outputs
from halfstep.graph.names import operator_name
from halfstep.graph.operators import Role, WeightedLayer, role_of
from halfstep.graph.ties import Ties, find_ties


@dataclass(frozen=True)
class Stream:
    """size: C. axes: of each tensor, the axis of its channels, in the order of computation. writers, readers: the layers."""

    size: int
    axes: dict[Node, int]
    writers: list[WeightedLayer]
    readers: list[WeightedLayer]

    @property
    def is_linear(self) -> bool:
        """Whether nothing on the way handles channels one by one, or in groups."""
        others = set(self.axes) - {layer.node for layer in self.writers}
        return all(layer.groups == 1 for layer in (*self.writers, *self.readers)) and all(_is_linear(node) for node in others)

    def mix(self, graph: GraphModule, matrix: Tensor) -> None:
        """Put ``matrix`` [C, C], float64, on all tensors of the stream; the network computes what it computed."""
        inverse = torch.linalg.inv(matrix)
        for layer in self.writers:
            mix_outputs(graph, layer, matrix)
        for layer in self.readers:
            mix_inputs(graph, layer, inverse)


def find_streams(graph: GraphModule) -> list[Stream]:
    """The streams of two channels and more of a network without quantizers."""
    ties = find_ties(graph)
    by_numbers: dict[tuple[int, ...], list[Node]] = {}
    for node, channels in ties.channels.items():
        by_numbers.setdefault(tuple(channels.numbers.tolist()), []).append(node)
    num_sets = Counter(number for numbers in by_numbers for number in set(numbers))
    streams = [
        _stream(ties, nodes)
        for numbers, nodes in by_numbers.items()
        if len(set(numbers)) == len(numbers) > 1 and all(num_sets[number] == 1 and not ties.is_bound[number] for number in numbers)
    ]
    return [stream for stream in streams if stream.readers and stream.is_linear]


def _stream(ties: Ties, nodes: list[Node]) -> Stream:
    """All tensors that have the same channels, and the layers around them."""
    writers = [layer for layer, _ in ties.writers if layer.node in nodes]
    readers = [layer for layer, _ in ties.readers if layer.input in nodes]
    return Stream(len(ties.channels[nodes[0]].numbers), {node: ties.channels[node].place.axis for node in nodes}, writers, readers)


def _is_linear(node: Node) -> bool:
    """Whether an operator that is no layer, and that ties follow, does the same to every mixture of channels."""
    return role_of(node) in (Role.MERGE, Role.PASS, Role.AVERAGE) and not operator_name(node).startswith("max_pool")
