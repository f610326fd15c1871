"""Compute once what depends on no input of the network: joined biases, standardized weights, gathered position tables, masks.

What a forward makes of its parameters alone, or of the sizes of a sample, is a constant of the trained network. As a stored tensor it can
be quantized as a weight or a bias, where the operators that make it would each be put on a grid of their own. A constant that would be much
larger than what it is made of, holds NaN, or differs from call to call, stays as it is.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import GraphModule, Node
from torch.fx.node import map_arg

from halfstep.graph.attention import MASKED
from halfstep.graph.edit import add_tensor, finish
from halfstep.graph.names import hand_over_name, module_path, operator_name, stored_name
from halfstep.graph.operators import FILLS

_MAX_GROWTH = 1 << 20
"""How many values more than its sources a folded constant may hold."""


def fold_constants(graph: GraphModule) -> None:
    """Replace every tensor that is computed from stored ones alone by a stored one, in place.

    It keeps the name of the first tensor it is made of where nothing else reads that, and is a parameter where one of them is.
    """
    finish(graph)
    values: dict[Node, Any] = {}
    sources: dict[Node, list[Node]] = {}
    for node in graph.graph.nodes:
        if node.op == "get_attr":
            values[node], sources[node] = getattr(graph, str(node.target)), [node]
            node.meta["name"] = stored_name(graph, str(node.target))
        elif _is_fill(node):
            values[node], sources[node] = _filled(node), []
        elif _is_computable(node, values):
            origin = list(dict.fromkeys(source for x in node.all_input_nodes for source in sources[x]))
            value = _computed(node, values)
            if _may_be_stored(value, [values[source] for source in origin]):
                values[node], sources[node] = value, origin
    for node in [node for node in values if node.op != "get_attr" and isinstance(values[node], Tensor)]:
        if any(user not in values for user in node.users):
            _store(graph, node, values[node], sources[node], values)
    finish(graph)


def _is_computable(node: Node, values: dict[Node, Any]) -> bool:
    target = node.target
    if node.op != "call_function" or any(x not in values for x in node.all_input_nodes):
        return False
    if isinstance(target, torch._ops.OpOverload):
        is_drawn = torch.Tag.nondeterministic_seeded in target.tags or "empty" in operator_name(node)
        return not is_drawn and not target._schema.is_mutable and bool(target._schema.returns)
    return operator_name(node) == "getitem"


def _is_fill(node: Node) -> bool:
    """Whether it is one number everywhere, in a shape that is the same in every call."""
    if operator_name(node) not in FILLS or node.op != "call_function" or len(node.all_input_nodes) > 1:
        return False
    shape = node.meta["val"].shape
    return all(isinstance(size, int) for size in shape) and shape.numel() <= _MAX_GROWTH


def _filled(node: Node) -> Tensor:
    model = node.args[0]
    assert isinstance(model, Node)
    stand_in = torch.zeros((), dtype=model.meta["val"].dtype).expand(node.meta["val"].shape)
    with torch.no_grad():
        filled: Tensor = node.target(stand_in, *node.args[1:], **node.kwargs)  # type: ignore[operator]
    return filled


def _computed(node: Node, values: dict[Node, Any]) -> Any:
    args, kwargs = map_arg((node.args, node.kwargs), lambda x: values[x])
    with torch.no_grad():
        return node.target(*args, **kwargs)  # type: ignore[operator]


def _may_be_stored(value: Any, sources: list[Tensor]) -> bool:
    parts = [part for part in (value if isinstance(value, (tuple, list)) else [value]) if part is not None]
    if not parts or not all(isinstance(part, Tensor) for part in parts):
        return False
    size, given = sum(part.numel() for part in parts), sum(source.numel() for source in sources)
    return size <= given + _MAX_GROWTH and all(not part.is_floating_point() or not bool(torch.isnan(part).any()) for part in parts)


def _store(graph: GraphModule, node: Node, value: Tensor, sources: list[Node], values: dict[Node, Any]) -> None:
    trained = value.is_floating_point() and any(isinstance(values[source], nn.Parameter) for source in sources)
    value = value.clone(memory_format=torch.contiguous_format)  # as it is once it was saved and loaded: kernels go by it
    if value.dtype is torch.float32:
        value.masked_fill_(value == -torch.inf, MASKED)
    path = add_tensor(graph, _name(graph, node, sources, values), nn.Parameter(value) if trained else value)
    with graph.graph.inserting_before(node):
        stored = graph.graph.get_attr(path)
    stored.meta = dict(node.meta)
    node.replace_all_uses_with(stored)
    values[stored] = value


def _name(graph: GraphModule, node: Node, sources: list[Node], values: dict[Node, Any]) -> str:
    """That of the first source, if it goes; else one beside it."""
    if not sources:
        return f"{module_path(node)}.{node.name}".removeprefix(".")
    first, name = str(sources[0].target), str(sources[0].meta["name"])
    is_read_again = any(other.target == first for other in graph.graph.nodes if other.op == "get_attr" and other is not sources[0])
    goes = not is_read_again and all(user in values and user.op != "get_attr" for user in sources[0].users)
    return name if goes and hand_over_name(graph, first) else f"{name}_{node.name}"
