"""Stretches of a network that can be looked at on their own: one tensor goes in, one comes out.

    ... -> source -> [ node, node, ..., output ] -> ...

A cut is a place where a single tensor is alive: everything behind it depends on what lies before it through that tensor alone. Between two
cuts lies a residual block, an attention or feed-forward part of a transformer, a module of parallel branches, or a single operator. What
follows without weights and without changing the shape (activation functions, quantizers) belongs to the unit before it.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from torch import nn
from torch.fx import Graph, GraphModule, Node

from halfstep.graph.edges import quantizer_of
from halfstep.graph.operators import Role, WeightedLayer, clip_behind, role_of, weighted_layer

UnitKind = Literal["block", "layer"]
MOST_LAYERS = 12  # of one unit; what is not cut up any further is taken layer by layer


@dataclass(frozen=True)
class Unit:
    """nodes: in the order of computation, those that depend on ``source``; the last is the output. layers: the weighted among them."""

    source: Node
    nodes: tuple[Node, ...]
    layers: tuple[WeightedLayer, ...]

    @property
    def output(self) -> Node:
        """The tensor that leaves the unit."""
        return self.nodes[-1]

    @property
    def name(self) -> str:
        """The user's names of its first and last layer."""
        names = list(dict.fromkeys(layer.name for layer in (self.layers[0], self.layers[-1])))
        return " to ".join(names)

    @property
    def constants(self) -> tuple[Node, ...]:
        """What its nodes read besides the source and each other: weights, biases."""
        inside = {self.source, *self.nodes}
        return tuple(dict.fromkeys(node for user in self.nodes for node in user.all_input_nodes if node not in inside))


def find_units(graph: GraphModule, kind: UnitKind) -> list[Unit]:
    """Units in the order of computation; every weighted layer whose input depends on the data is in exactly one."""
    if kind == "layer" or graph.meta.get("batch_size") is not None:  # a stretch may have the batch size written into its shapes
        return [_layer_unit(layer) for node in data_nodes(graph) if (layer := weighted_layer(node)) is not None]
    units: list[Unit] = []
    for source, nodes in _merged(_stretches(graph)):
        unit = _unit(source, nodes)
        is_whole = len(unit.layers) <= MOST_LAYERS and not set(unit.constants) & set(data_nodes(graph))
        units.extend([unit] if is_whole else [_layer_unit(layer) for layer in unit.layers])
    return units


def part_of_graph(source: Node, nodes: Iterable[Node], constants: Iterable[Node], replaced: dict[str, nn.Module]) -> GraphModule:
    """A module that computes the last of ``nodes`` from the values of ``source`` and of the ``constants``, in this order.

    It calls the modules of the graph itself, except those ``replaced``, by their path.
    """
    owner, part = source.graph.owning_module, Graph()
    assert owner is not None
    copies = {node: part.placeholder(node.name) for node in (source, *constants)}
    modules: dict[str, nn.Module] = {}
    for node in nodes:
        copies[node] = part.node_copy(node, copies.__getitem__)
        if node.op == "call_module":
            path = str(node.target)
            modules[path] = replaced.get(path, owner.get_submodule(path))
    part.output(copies[node])
    return GraphModule(modules or nn.Module(), part)


def data_nodes(graph: GraphModule) -> dict[Node, None]:
    """The nodes whose values depend on the inputs, in order."""
    found: dict[Node, None] = {}
    for node in graph.graph.nodes:
        if node.op == "placeholder" or (node.op != "output" and any(source in found for source in node.all_input_nodes)):
            found[node] = None
    return found


def _stretches(graph: GraphModule) -> list[tuple[Node, list[Node]]]:
    """Between each two neighbouring cuts: the tensor that is alive at the first, and the nodes up to the second."""
    nodes = [node for node in data_nodes(graph) if not node.meta.get("is_number")]
    last_use = {node: max((index for index, user in enumerate(nodes) if node in user.all_input_nodes), default=-1) for node in nodes}
    for node in nodes:
        if any(user.op == "output" for user in node.users):
            last_use[node] = len(nodes)
    found: list[tuple[Node, list[Node]]] = []
    source, stretch, alive = nodes[0], list[Node](), set[Node]()
    for index, node in enumerate(nodes):
        stretch.append(node)
        alive = {other for other in (*alive, node) if last_use[other] > index}
        if len(alive) == 1 and all(other.op != "placeholder" for other in nodes[index + 1 :]):
            found.append((source, stretch))
            (source,), stretch = alive, []
    return [*found, (source, stretch)] if stretch else found


def _merged(stretches: list[tuple[Node, list[Node]]]) -> list[tuple[Node, list[Node]]]:
    """Stretches without a layer go to the one before them while the shape is kept; all others are left out."""
    merged: list[tuple[Node, list[Node]]] = []
    for source, nodes in stretches:
        if any(weighted_layer(node) is not None for node in nodes):
            merged.append((source, list(nodes)))
        elif merged and _goes_on(merged[-1], source, nodes):
            merged[-1][1].extend(nodes)
    return merged


def _goes_on(unit: tuple[Node, list[Node]], source: Node, nodes: list[Node]) -> bool:
    """Whether a stretch takes up the tensor in which the unit before it ends, and keeps its shape."""
    return source is unit[1][-1] and all(node.meta.get("shape") == source.meta.get("shape") for node in nodes)


def _unit(source: Node, nodes: list[Node]) -> Unit:
    inside = [node for node in nodes if node.op != "placeholder" and node is not source]
    return Unit(source, tuple(inside), tuple(layer for node in inside if (layer := weighted_layer(node)) is not None))


def _layer_unit(layer: WeightedLayer) -> Unit:
    """The layer, the clip that belongs to it, and the quantizer of its output."""
    nodes = [layer.node]
    clip = clip_behind(layer.node)
    if clip is not None:
        nodes.append(clip)
    users = list(nodes[-1].users)
    if len(users) == 1 and quantizer_of(users[0]) is not None and role_of(users[0]) is Role.QUANTIZER:
        nodes.append(users[0])
    return Unit(layer.input, tuple(nodes), (layer,))
