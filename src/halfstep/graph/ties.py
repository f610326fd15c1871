"""Which channels of which tensors can be scaled, and which of them only together.

    a layer writes C channels that nothing ties yet          its outputs can be divided by any positive factors
    x + y, x - y                                             channel c of x, of y and of the sum are one
    cat(x, y)                                                along the channels: theirs side by side; else as a sum
    what `chains.moved` follows (ReLU, pooling, views ...)   the channels it reads, at their new place
    a layer reads them                                       its input channels can be multiplied by the same factors
    anything else, and the network's outputs                 the channels it reads are bound: their factor is 1

So the residual stream of a network is one set of C channels, whatever the number of additions, and every layer that writes into it or
reads it takes part. A layer whose parameters are computed or shared binds what it reads, and what it writes is not followed.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.fx import GraphModule, Node

from halfstep.graph.chains import Place, clip_bounds, moved, output_place, reads_channels
from halfstep.graph.channels import has_own_parameters
from halfstep.graph.names import operator_name
from halfstep.graph.operators import CONCATENATIONS, Role, WeightedLayer, argument, num_tensors, role_of, weighted_layer


@dataclass(frozen=True)
class Channels:
    """The channels of one tensor. numbers: int64 [C], equal numbers are tied, over all tensors. place: the axis they lie on."""

    numbers: Tensor
    place: Place


@dataclass(frozen=True)
class Ties:
    """channels: of every tensor that is followed. is_bound: bool [how many numbers there are], whether the factor has to stay 1.

    writers, readers: layers with the numbers of their output channels [C_out] or input channels [C_in].
    """

    channels: dict[Node, Channels]
    is_bound: Tensor
    writers: list[tuple[WeightedLayer, Tensor]]
    readers: list[tuple[WeightedLayer, Tensor]]


def find_ties(graph: GraphModule) -> Ties:
    """The ties of a network without quantizers."""
    walk = _Walk()
    for node in graph.graph.nodes:
        walk.visit(node)
    return walk.ties()


class _Walk:
    """One pass through the graph: channels are numbered where they are written and joined where they meet."""

    def __init__(self) -> None:
        self.parents: list[int] = []
        self.bound: set[int] = set()
        self.channels: dict[Node, Channels] = {}
        self.writers: list[tuple[WeightedLayer, Tensor]] = []
        self.readers: list[tuple[WeightedLayer, Tensor]] = []

    def visit(self, node: Node) -> None:
        layer = weighted_layer(node)
        if layer is not None:
            self._visit_layer(layer)
            return
        found = self._behind(node)
        if found is None:
            for source in node.all_input_nodes:
                self._bind(source)
        else:
            self.channels[node] = found

    def ties(self) -> Ties:
        """With one number for all that are tied, from 0 on."""
        roots = torch.tensor([self._root(number) for number in range(len(self.parents))], dtype=torch.int64)
        used, compact = torch.unique(roots, return_inverse=True)
        is_bound = torch.zeros(len(used), dtype=torch.bool)
        if self.bound:
            is_bound[compact[sorted(self.bound)]] = True
        channels = {node: Channels(compact[found.numbers], found.place) for node, found in self.channels.items()}
        writers, readers = ([(layer, compact[numbers]) for layer, numbers in pairs] for pairs in (self.writers, self.readers))
        return Ties(channels, is_bound, writers, readers)

    def _visit_layer(self, layer: WeightedLayer) -> None:
        is_own = has_own_parameters(layer)
        source = self.channels.get(layer.input)
        if source is not None and is_own and reads_channels(layer, layer.input, source.place):
            self.readers.append((layer, source.numbers.repeat_interleave(source.place.block)))
        else:
            self._bind(layer.input)
        for other in layer.node.all_input_nodes:
            if other is not layer.input:
                self._bind(other)  # a weight or bias that was computed
        if is_own:
            place = output_place(layer)
            numbers = self._fresh(layer.node.meta["shape"][place.axis])
            self.channels[layer.node] = Channels(numbers, place)
            self.writers.append((layer, numbers))

    def _behind(self, node: Node) -> Channels | None:
        """The channels of what an operator that is no layer writes; None where they are not those it reads."""
        if node.op != "call_function" and not node.op.startswith("call"):
            return None
        if operator_name(node) in ("add", "sub") and num_tensors(node) == 2:
            return self._joined([x for x in node.args[:2] if isinstance(x, Node)], node)
        if operator_name(node) in CONCATENATIONS:
            return self._concatenated(node)
        source = next(iter(node.all_input_nodes), None)
        if source not in self.channels or (role_of(node) is Role.CLIP and clip_bounds(node)[0] not in (0, -torch.inf)):
            return None
        place = moved(node, source, self.channels[source].place)
        return None if place is None else Channels(self.channels[source].numbers, place)

    def _joined(self, operands: list[Node], node: Node) -> Channels | None:
        """The channels of tensors that are added up, or put one behind the other along another axis."""
        found = [self.channels[operand] for operand in operands if operand in self.channels]
        if len(found) < len(operands) or len({channels.place for channels in found}) > 1:
            return None
        if len({len(operand.meta["shape"]) for operand in [*operands, node]}) > 1:
            return None  # the axes are not the same ones
        if len({len(channels.numbers) for channels in found}) > 1:
            return None
        for other in found[1:]:
            self._join(found[0].numbers, other.numbers)
        return found[0]

    def _concatenated(self, node: Node) -> Channels | None:
        operands: Any = node.args[0]
        found = [self.channels[operand] for operand in operands if operand in self.channels]
        if len(found) < len(operands) or len({channels.place for channels in found}) > 1:
            return None
        place = found[0].place
        if argument(node, "dim", 0) % len(node.meta["shape"]) != place.axis:
            return self._joined(list(operands), node)
        return Channels(torch.cat([channels.numbers for channels in found]), place)

    def _fresh(self, num_channels: int) -> Tensor:
        first = len(self.parents)
        self.parents.extend(range(first, first + num_channels))
        return torch.arange(first, first + num_channels)

    def _root(self, number: int) -> int:
        while self.parents[number] != number:
            self.parents[number] = self.parents[self.parents[number]]
            number = self.parents[number]
        return number

    def _join(self, first: Tensor, second: Tensor) -> None:
        for one, other in zip(first.tolist(), second.tolist(), strict=True):
            self.parents[self._root(other)] = self._root(one)

    def _bind(self, node: Node) -> None:
        if node in self.channels:
            self.bound.update(self.channels[node].numbers.tolist())
