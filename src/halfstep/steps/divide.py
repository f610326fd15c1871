"""Divide the tensor that some linear layers read, channel by channel and for good, within what writes it.

what writes the tensor                                       nothing else reads it        something else reads it too
layer_norm, rms_norm with weights of its own                 weight and bias              a copy of the norm, for these layers
a multiplication by a stored vector [C] (a norm written out) the vector                   a copy of the multiplication
a layer, through ReLU and the like (`graph/chains.py`)       weight and bias              -
anything else                                                -                            -

A dropout between the norm and the layers is passed, and copied with it. In the places marked - a division has to be put in front of the
layers: `insert_division`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from torch import Tensor
from torch import ops as torch_ops
from torch.fx import GraphModule, Node

from halfstep.graph.chains import Chain
from halfstep.graph.channels import beside, num_reads, scale_outputs
from halfstep.graph.edit import add_parameter, attribute, free_name, set_parameter
from halfstep.graph.names import operator_name, stored_name
from halfstep.graph.operators import WeightedLayer, argument

_DROPOUTS = ("Dropout", "dropout")


@dataclass(frozen=True)
class Division:
    """apply: divides what the layers read by s [C]. copies: whether it makes a copy of what writes it."""

    apply: Callable[[Tensor], None]
    copies: bool = False


def division(graph: GraphModule, source: Node, readers: list[WeightedLayer], chain: Chain | None) -> Division | None:
    """How ``source`` is divided for ``readers``; None where it cannot be. chain: from the one layer that writes it, if it is one."""
    if chain is not None:
        return Division(lambda factor: scale_outputs(graph, chain.first, 1 / factor))
    way = _way_from_norm(source)
    vectors = _vectors(way[0])
    if not vectors:
        return None
    is_read_alone = set(source.users) == {layer.node for layer in readers} and all(len(node.users) == 1 for node in way[:-1])
    if is_read_alone and all(num_reads(vector) == 1 for vector in vectors):
        return Division(partial(_divide_parameters, graph, vectors))
    return Division(partial(_divide_copy, graph, way, vectors, readers), copies=True)


def insert_division(graph: GraphModule, source: Node, readers: list[WeightedLayer], factor: Tensor) -> None:
    """Put x / s in front of ``readers``, which read x from ``source``."""
    vector = add_parameter(
        graph, beside(graph, readers[0], "smoothing"), factor.to(attribute(graph, readers[0].weight).dtype), before=readers[0].node
    )
    with graph.graph.inserting_before(readers[0].node):
        quotient = graph.graph.call_function(torch_ops.aten.div.Tensor, (source, vector))
    quotient.meta = {**source.meta, "name": f"{readers[0].name}:smoothing"}
    for layer in readers:
        layer.node.replace_input_with(source, quotient)


def _way_from_norm(source: Node) -> list[Node]:
    """``source`` and the dropouts before it, the first operator first."""
    way = [source]
    while operator_name(way[0]) in _DROPOUTS and isinstance(way[0].args[0], Node):
        way.insert(0, way[0].args[0])
    return way


def _vectors(writer: Node) -> list[Node]:
    """The stored vectors [C] that ``writer``, a norm or a multiplication, is proportional to; none where it is neither."""
    name = operator_name(writer) if writer.op == "call_function" else ""
    if name in ("layer_norm", "rms_norm"):
        weight = argument(writer, "weight", None)
        bias = argument(writer, "bias", None) if name == "layer_norm" else None
        vectors = [vector for vector in (weight, bias) if vector is not None] if isinstance(weight, Node) else []
    elif name == "mul":
        stored = [x for x in writer.args if isinstance(x, Node) and x.op == "get_attr"]
        vectors = stored if len(stored) == 1 else []
    else:
        vectors = []
    is_stored = all(x.op == "get_attr" and tuple(x.meta["shape"]) == (writer.meta["shape"][-1],) for x in vectors)
    return vectors if is_stored else []


def _divide_parameters(graph: GraphModule, vectors: list[Node], factor: Tensor) -> None:
    for node in vectors:
        set_parameter(graph, node, _divided(attribute(graph, node), factor))


def _divide_copy(graph: GraphModule, way: list[Node], vectors: list[Node], readers: list[WeightedLayer], factor: Tensor) -> None:
    """Let ``readers`` read a copy of the norm, with parameters of its own."""
    first = readers[0].node
    instead: dict[Node, Node] = {}
    for vector in vectors:
        name = beside(graph, readers[0], f"norm_{stored_name(graph, str(vector.target)).rpartition('.')[2]}")
        instead[vector] = add_parameter(graph, name, _divided(attribute(graph, vector), factor), before=first)
    for node in way:
        with graph.graph.inserting_before(first):
            copy = graph.graph.node_copy(node, lambda x: instead.get(x, x))
        copy.meta = {**node.meta, "name": free_name(graph, f"{node.meta['name']}:smoothed")}
        instead[node] = copy
    for layer in readers:
        layer.node.replace_input_with(way[-1], instead[way[-1]])


def _divided(value: Tensor, factor: Tensor) -> Tensor:
    return (value.double() / factor).to(value.dtype)
