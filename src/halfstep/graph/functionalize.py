"""Make in-place operators functional: ``x.relu_()`` becomes ``y = x.relu()``, and who read x afterwards reads y.

That renaming is right as long as no other tensor shares x's memory and is read later. Where one does (a slice is assigned to, a view
is changed and its base read), torch's own functionalization rewrites the whole program instead; it splits batch norm and dropout into
other operators, which `lift` knows as well.
"""

from __future__ import annotations

import operator
from collections.abc import Callable

import torch
from torch.fx import GraphModule, Node

from halfstep.graph.inline import inline_regions
from halfstep.graph.recorded import Recorded, as_module, functionalized, writes_into

_CHECKS = ("aten._assert_tensor_metadata.default",)  # compute nothing
# Operators whose schema promises a new tensor although they may return their input.
_RETURN_THEIR_INPUT = ("reshape", "dropout", "feature_dropout", "alpha_dropout", "contiguous", "to")


def functional_module(recorded: Recorded) -> GraphModule:
    """The recorded program as a module none of whose operators changes its arguments; raises `ModelError` where that cannot be."""
    module = _plain(recorded)
    order = {node: index for index, node in enumerate(module.graph.nodes)}
    in_place = [node for node in module.graph.nodes if is_in_place(node)]
    if any(_has_live_alias(node, order) or _functional(node) is None for node in in_place):
        return _functionalized_by_torch(recorded)
    for node in in_place:
        _make_functional(node, order)
    return module


def _plain(recorded: Recorded) -> GraphModule:
    """The program's module without checks, and with ``reshape`` for ``view``.

    A view demands one order of the values in memory; reshape gives the same values in any.
    """
    module = as_module(recorded)
    inline_regions(module)
    for node in list(module.graph.nodes):
        if node.target is torch.ops.aten.view.default:
            node.target = torch.ops.aten.reshape.default
        if str(node.target) in _CHECKS:
            module.graph.erase_node(node)
    return module


def is_in_place(node: Node) -> bool:
    """Whether the operator writes into one of its arguments."""
    return isinstance(node.target, torch._ops.OpOverload) and node.target._schema.is_mutable


def _functional(node: Node) -> Callable[..., object] | None:
    """``aten.relu_.default`` -> ``aten.relu.default``; None where there is no such twin."""
    overload = node.target
    assert isinstance(overload, torch._ops.OpOverload)
    packet_name = overload._schema.name.split("::")[1].removesuffix("_")
    packet = getattr(torch.ops.aten, packet_name, None) if overload._schema.name.startswith("aten::") else None
    found: Callable[..., object] | None = getattr(packet, overload._overloadname, None)
    return found


def _aliases(node: Node) -> bool:
    """Whether the node's output may share memory with its first argument (a view, or an in-place result)."""
    target = node.target
    if not isinstance(target, torch._ops.OpOverload):
        return target is operator.getitem
    if any(argument.alias_info is not None for argument in target._schema.arguments):
        return True
    return target._schema.name.split("::")[1] in _RETURN_THEIR_INPUT


def _storage(node: Node) -> set[Node]:
    """All nodes that may share memory with ``node``: its bases, and every view of those."""
    root = node
    while root.op == "call_function" and _aliases(root) and isinstance(root.args[0], Node):
        root = root.args[0]
    found, waiting = {root}, [root]
    while waiting:
        for user in waiting.pop().users:
            if user.op == "call_function" and _aliases(user) and user not in found:
                found.add(user)
                waiting.append(user)
    return found


def _has_live_alias(node: Node, order: dict[Node, int]) -> bool:
    """Whether another tensor on the same memory is read after ``node`` wrote to it."""
    written = node.args[0]
    assert isinstance(written, Node)
    if written.op in ("placeholder", "get_attr"):
        return True
    chain = {node, written}
    for alias in _storage(written) - chain:
        if order[alias] < order[node] and any(order[user] > order[node] for user in alias.users):
            return True
    return False


def _make_functional(node: Node, order: dict[Node, int]) -> None:
    written = node.args[0]
    assert isinstance(written, Node)
    node.target = _functional(node)  # type: ignore[assignment]
    for user in [user for user in written.users if order[user] > order[node]]:
        user.replace_input_with(written, node)


def _functionalized_by_torch(recorded: Recorded) -> GraphModule:
    for node in recorded.program.graph.nodes:
        if _is_dropout(node):  # in eval mode it returns its very input, which torch's functionalization takes for a copy
            node.target, node.args = torch.ops.aten.alias.default, node.args[:1]
    module = _plain(functionalized(recorded))
    for node in module.graph.nodes:
        if is_in_place(node):
            raise writes_into(str(node.args[0]))
    return module


def _is_dropout(node: Node) -> bool:
    return str(node.target) in ("aten.dropout.default", "aten.feature_dropout.default")
