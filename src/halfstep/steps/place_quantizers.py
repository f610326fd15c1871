"""Put a quantizer on every edge that becomes an integer tensor.

The rules follow the roles of ``graph/operators.py``:

role of the operator    its operands          its output
WEIGHTED, PRODUCT       all on a grid         its own grid, placed behind a CLIP that is its only user
MERGE                   all on a grid         likewise
a mask's sum            as they are           none: it belongs to the softmax (``graph/masking.py``)
AVERAGE                 as they are           its own grid if its input is on one
AVERAGE, norms          on a grid             its own grid, where an operator below asks for one
CLIP                    as they are           its own grid if its input is on one or is fused into it
PASS                    as they are           the very quantizer of its input, if that is on a grid (as an input of the network is, where
                                              what is moved is asked for)
everything else         as they are           a grid only where an operator above asks for one

Where the scheme gives shortcuts a type of their own, layers read them through a second quantizer behind the first.

The scheme's target (`halfstep.targets`) changes three of the rules, see `target_placement`: a WEIGHTED operator, PRODUCT or MERGE may stay
in float where no integer operator reads it; so may one of two addends, that a layer has just accumulated; operands of a concatenation may
share its quantizer.

Weights get the scheme's weight grid, biases int32 on the accumulator's grid (input scale * weight scale), but for weights with a scale for
each group: they have no accumulator of one scale, and their bias stays in float. The last operator before a
network output keeps its output in float (``Scheme.outputs`` changes that): runtimes hand over the accumulator as a float there, and 8-bit
scores would tie. Convolutions are the exception: runtimes only run them as integers with a grid behind them.

ONNX Runtime and OpenVINO run as integers exactly what is placed so: uint8 activations, int8 symmetric per-channel weights, a grid behind
every convolution and on both branches of an add.
"""

from __future__ import annotations

import dataclasses
import fnmatch
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import final

from torch.fx import GraphModule, Node

from halfstep.errors import GraphError, did_you_mean
from halfstep.graph.edges import quantizer_of
from halfstep.graph.edit import add_parameter, attribute, finish, insert_quantizer
from halfstep.graph.masking import is_mask_sum
from halfstep.graph.names import operator_name, stored_name
from halfstep.graph.operators import (
    ASKING,
    NORMS,
    Role,
    WeightedLayer,
    clip_behind,
    is_float_tensor,
    num_tensors,
    role_of,
    weighted_layer,
    weighted_layers,
)
from halfstep.grid import Grid
from halfstep.quantizers import AbstractQuantizer, AccumulatorQuantizer, UniformQuantizer
from halfstep.steps.abstract import STEPS, AbstractStep, Context
from halfstep.steps.places import multiplies, places_of
from halfstep.steps.scheme import Place, Scheme
from halfstep.steps.target_placement import accumulated_addend, is_read_as_integers, join_concatenations
from halfstep.targets import TARGETS

BIAS_GRID = Grid(bits=32, signed=True)


@final
@STEPS.register("place_quantizers")
class PlaceQuantizers(AbstractStep):
    """Insert quantizers, still switched off; `calibrate` gives them their scales."""

    def apply(self, graph: GraphModule, context: Context) -> GraphModule:
        """Plan on the float graph, then insert."""
        places = places_of(graph)
        owners, grids = plan_grids(graph, context.scheme, places)
        context.notes.extend(_unmatched(context.scheme, places.values()))
        shared = {owner: UniformQuantizer(grid) for owner, grid in grids.items() if grid is not None}
        for node, owner in owners.items():
            if owner in shared:
                edge = insert_quantizer(graph, node, shared[owner])
                _round_again(graph, edge, places[owner], context.scheme)
        _quantize_weights(graph, context.scheme)
        _untie_tables(graph)
        _quantize_biases(graph)
        return finish(graph)

    def ensures(self, graph: GraphModule) -> None:
        """A quantized weight reads a quantizer; a bias with a grid belongs to a layer whose input and weight have one."""
        for layer in weighted_layers(graph):
            bias = quantizer_of(layer.bias)
            if bias is not None and (quantizer_of(layer.input) is None or quantizer_of(layer.weight) is None):
                raise GraphError(f"The bias of '{layer.name}' has a grid, its input or weight has none.")


def _round_again(graph: GraphModule, edge: Node, place: Place, scheme: Scheme) -> None:
    """Give the layers that read a shortcut, behind its quantizer ``edge``, a grid of the default type."""
    wide, narrow = quantizer_of(edge), scheme.activation_grid(dataclasses.replace(place, is_shortcut=False))
    layers = [user for user in edge.users if multiplies(user)]
    if layers and wide is not None and narrow is not None and narrow != wide.grid:
        insert_quantizer(graph, edge, UniformQuantizer(narrow), layers)


def _unmatched(scheme: Scheme, places: Iterable[Place]) -> list[str]:
    """A note for every override that names nothing in this network."""
    names = [name for place in places for name in (place.name, place.clip) if name is not None]
    missed = [entry.pattern for entry in scheme.overrides if not fnmatch.filter(names, entry.pattern)]
    return [f"The override '{pattern}' matches no layer. {did_you_mean(pattern, names)}" for pattern in missed]


def plan_grids(graph: GraphModule, scheme: Scheme, places: Mapping[Node, Place]) -> tuple[dict[Node, Node], dict[Node, Grid | None]]:
    """The owners of `plan`, with concatenations joined where the target asks for it, and the grid of each owner (None: float)."""
    owners = plan(graph, scheme)
    grids = {owner: scheme.activation_grid(places[owner]) for owner in dict.fromkeys(owners.values())}
    if TARGETS[scheme.target].joins_concat:
        owners = join_concatenations(graph, owners, grids)
    return owners, grids


def rounding_grids(graph: GraphModule, scheme: Scheme, nodes: Iterable[Node]) -> tuple[dict[Node, Grid], dict[Node, Node]]:
    """(the grid of each of ``nodes`` of a float graph whose values will be rounded there, the owners of `plan`)."""
    owners, grids = plan_grids(graph, scheme, places_of(graph))
    found = {node: grids[owners[node]] for node in nodes if _is_rounded(node, owners)}
    return {node: grid for node, grid in found.items() if grid is not None}, owners


def _is_rounded(node: Node, owners: Mapping[Node, Node]) -> bool:
    """Whether values are rounded at ``node``: not where they only move, and not by a concatenation onto the grid that they have."""
    owner = owners.get(node)
    if owner is None or role_of(node) is Role.PASS:
        return False
    return all(owners.get(operand) is not owner for operand in node.all_input_nodes)


def plan_weight_grids(graph: GraphModule, scheme: Scheme) -> dict[Node, Grid | None]:
    """The grid of each layer's weight, by the layer's node; None where it stays in float."""
    layers = weighted_layers(graph)
    found: dict[Node, Grid | None] = {}
    for index, layer in enumerate(layers):
        has_own_axis = layer.output_axis == 0 or layer.groups == 1
        place = Place(layer.name, index == 0, index == len(layers) - 1)
        found[layer.node] = scheme.weight_grid(place, layer.output_axis if has_own_axis else None, operator_name(layer.node) == "linear")
    return found


def plan(graph: GraphModule, scheme: Scheme) -> dict[Node, Node]:
    """For every node whose output gets a quantizer, in order: the node that owns it (itself, or the one whose grid it shares)."""
    demand = _demand(graph, scheme)
    owners: dict[Node, Node] = {}
    for node in graph.graph.nodes:
        if not is_float_tensor(node) or node.op == "output":
            continue
        owner = _owner(node, owners, demand)
        if owner is not None:
            owners[node] = owner
    return owners


@dataclass(frozen=True)
class _Demand:
    """asking: operators whose operands must be on grids. demanded: those operands. floating: operators that keep their output in float."""

    asking: set[Node]
    demanded: set[Node]
    floating: set[Node]


def _demand(graph: GraphModule, scheme: Scheme) -> _Demand:
    target = TARGETS[scheme.target]
    asking = {node for node in graph.graph.nodes if _asks(node, scheme)}
    demanded = {_moved_input(operand) for node in asking for operand in _operands(node)}
    demanded |= _summed_up(graph, demanded)
    if scheme.inputs is not None:
        demanded |= {node for node in graph.graph.nodes if node.op == "placeholder"}
    floating = {node for node in graph.graph.nodes if _may_stay_in_float(node, scheme)}
    if target.adds_accumulators:
        accumulated = {addend for node in asking if (addend := accumulated_addend(node)) is not None}
        demanded, floating = demanded - accumulated, floating | accumulated
    if not target.gives_every_layer_a_grid:
        floating |= {node for node in asking if not is_read_as_integers(node, asking)}
    return _Demand(asking, demanded, floating)


def _summed_up(graph: GraphModule, demanded: set[Node]) -> set[Node]:
    """What the averages and norms read that a grid is asked of: their integer form sums codes up, where a function would be a table.

    An input of the network stays as it is, as in front of any function.
    """
    found: set[Node] = set()
    for node in reversed(graph.graph.nodes):
        if node not in demanded | found:
            continue
        source = node
        while source.op.startswith("call") and role_of(source) is Role.PASS and isinstance(source.args[0], Node):
            source = source.args[0]
        is_sum = source.op == "call_function" and (role_of(source) is Role.AVERAGE or operator_name(source) in NORMS)
        if is_sum and isinstance(source.args[0], Node) and is_float_tensor(source.args[0]):
            found.add(_moved_input(source.args[0]))
    return {node for node in found if node.op != "placeholder"}


def _owner(node: Node, owners: dict[Node, Node], demand: _Demand) -> Node | None:
    """Who owns the grid of ``node``'s output; None where it stays in float."""
    role = role_of(node) if node.op.startswith("call") else None
    source = next((x for x in node.all_input_nodes if x.op != "get_attr"), None)
    if operator_name(node) == "getitem" and source is not None:
        source = next(iter(source.all_input_nodes), None)  # the tensor that was split
    if role is Role.PASS and source in owners:
        return owners[source]
    if node in demand.demanded:
        return node
    if node in demand.asking:
        return None if clip_behind(node) is not None or node in demand.floating else node
    if role is Role.CLIP and (source in owners or (source in demand.asking and source not in demand.floating)):
        return node
    if role is Role.AVERAGE and source in owners and node not in demand.floating:
        return node
    return None


def _asks(node: Node, scheme: Scheme) -> bool:
    """Whether the operands of ``node`` must be on grids."""
    if node.op != "call_function" or role_of(node) not in ASKING or not is_float_tensor(node):
        return False
    if role_of(node) in (Role.PRODUCT, Role.MERGE) and num_tensors(node) < 2:
        return False  # a number is added or multiplied
    if is_mask_sum(node):
        return False
    return scheme.weight_grid(Place(node.meta["name"]), None) is not None or role_of(node) is not Role.WEIGHTED


def _moved_input(node: Node) -> Node:
    """The network's input, where ``node`` is that input under another shape: the grid belongs to the input itself."""
    source = node
    while source.op.startswith("call") and role_of(source) is Role.PASS and isinstance(source.args[0], Node) and is_float_tensor(source):
        source = source.args[0]
    return source if source.op == "placeholder" and is_float_tensor(source) else node


def _operands(node: Node) -> list[Node]:
    """The operands that must be on activation grids: not a stored weight, not a bias."""
    layer = weighted_layer(node)
    if layer is None:
        return [x for x in node.all_input_nodes if is_float_tensor(x)]
    return [layer.input] if layer.weight.op == "get_attr" else [layer.input, layer.weight]


def _may_stay_in_float(node: Node, scheme: Scheme) -> bool:
    """Whether ``node`` feeds nothing but the network's outputs and its integer kernel can return floats."""
    if scheme.outputs or (operator_name(node).startswith("conv") and TARGETS[scheme.target].gives_every_layer_a_grid):
        return False
    return all(user.op == "output" or (role_of(user) is Role.PASS and _may_stay_in_float(user, scheme)) for user in node.users)


def _quantize_weights(graph: GraphModule, scheme: Scheme) -> None:
    layers = weighted_layers(graph)
    readers: dict[Node, list[Node]] = {}
    for layer in layers:
        readers.setdefault(layer.weight, []).append(layer.node)
    grids = plan_weight_grids(graph, scheme)
    for layer in layers:
        if layer.weight.op != "get_attr" or layer.weight not in readers:
            continue
        sharing = readers.pop(layer.weight)  # a weight that several layers share has one quantizer
        grid = grids[layer.node]
        if grid is not None:
            sizes = grid.scale_shape(attribute(graph, layer.weight).shape)
            insert_quantizer(graph, layer.weight, UniformQuantizer(grid, *sizes), sharing)


def _untie_tables(graph: GraphModule) -> None:
    """Give embeddings a table of their own where a layer's weight is the same parameter: rounding the weight would round the rows too."""
    stored = [node for node in graph.graph.nodes if node.op == "get_attr"]
    rounded = {node.target for node in stored if any(quantizer_of(user) is not None for user in node.users)}
    for node in [node for node in graph.graph.nodes if operator_name(node) == "embedding"]:
        table = node.args[0]
        if isinstance(table, Node) and table.op == "get_attr" and table.target in rounded:
            name = f"{stored_name(graph, str(table.target))}_of_rows"
            node.update_arg(0, add_parameter(graph, name, attribute(graph, table).clone(), before=node))


def _quantize_biases(graph: GraphModule) -> None:
    for layer in weighted_layers(graph):
        sources = quantizer_of(layer.input), quantizer_of(layer.weight)
        if not all(isinstance(source, UniformQuantizer) for source in sources) or sources[1].grid.group_size is not None:  # type: ignore[union-attr]
            continue
        if layer.bias is not None and layer.bias.op == "get_attr":
            insert_quantizer(graph, layer.bias, _bias_quantizer(layer, sources), [layer.node])  # type: ignore[arg-type]


def _bias_quantizer(layer: WeightedLayer, sources: tuple[UniformQuantizer, UniformQuantizer]) -> AbstractQuantizer:
    is_per_channel = sources[1].grid.channel_axis is not None
    grid = Grid(BIAS_GRID.bits, BIAS_GRID.signed, channel_axis=0 if is_per_channel else None)
    return AccumulatorQuantizer(grid, sources)
