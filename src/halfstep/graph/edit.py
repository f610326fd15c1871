"""The few ways a step changes a graph."""

from __future__ import annotations

import itertools
from collections.abc import Collection

import torch
from torch import Tensor, nn
from torch.fx import GraphModule, Node

from halfstep.graph.tree import put, without_subnormals
from halfstep.quantizers import AbstractQuantizer


def add_parameter(graph: GraphModule, path: str, value: Tensor, before: Node) -> Node:
    """A new parameter at the dotted ``path`` and the attribute node that reads it, inserted before ``before``."""
    put(graph, path, nn.Parameter(without_subnormals(value)))
    with graph.graph.inserting_before(before):
        node = graph.graph.get_attr(path)
    node.meta = {"name": path, "shape": tuple(value.shape), "dtype": value.dtype}
    return node


def set_parameter(graph: GraphModule, node: Node, value: Tensor) -> None:
    """Overwrite the tensor an attribute node reads."""
    with torch.no_grad():
        attribute(graph, node).copy_(without_subnormals(value))


def replace_parameter(graph: GraphModule, node: Node, value: Tensor) -> None:
    """Put a parameter of another shape in the place of the one that an attribute node reads."""
    put(graph, str(node.target), nn.Parameter(without_subnormals(value)))
    node.meta["shape"] = tuple(value.shape)


def attribute(graph: GraphModule, node: Node) -> Tensor:
    """The tensor an attribute node reads, cut off from gradients; it shares the parameter's memory."""
    parent, _, leaf = str(node.target).rpartition(".")
    value = getattr(graph.get_submodule(parent), leaf)
    assert isinstance(value, Tensor)
    return value.detach()


def insert_quantizer(
    graph: GraphModule, source: Node, path: str, quantizer: AbstractQuantizer, users: Collection[Node] | None = None
) -> Node:
    """Put ``quantizer``, entered at ``path`` if it is new, on the edge that leaves ``source``: for some ``users`` or for all of them."""
    if not _has_module(graph, path):
        graph.add_submodule(path, quantizer)
    with graph.graph.inserting_after(source):
        node = graph.graph.call_module(path, (source,))
    node.meta = {**source.meta, "name": free_name(graph, f"{source.meta['name']}:quantize")}
    chosen = set(source.users) if users is None else users
    source.replace_all_uses_with(node, delete_user_cb=lambda other: other is not node and other in chosen)
    return node


def finish(graph: GraphModule) -> GraphModule:
    """Drop what nothing uses any more, tensors included, and regenerate the code."""
    graph.graph.eliminate_dead_code()
    graph.delete_all_unused_submodules()
    read = {str(node.target) for node in graph.graph.nodes if node.op == "get_attr"}
    called = [graph.get_submodule(str(node.target)) for node in graph.graph.nodes if node.op == "call_module"]
    whole = {id(part) for module in called for part in module.modules()}
    for path, module in graph.named_modules():
        if id(module) not in whole:
            for name in [name for name in (*module._parameters, *module._buffers) if f"{path}.{name}".removeprefix(".") not in read]:
                delattr(module, name)
    graph.recompile()
    return graph


def free_name(graph: GraphModule, name: str) -> str:
    """``name`` as the name of a new node, numbered where another node has it."""
    taken = {node.meta.get("name") for node in graph.graph.nodes}
    return next(free for free in (name if k == 1 else f"{name}#{k}" for k in itertools.count(1)) if free not in taken)


def _has_module(graph: GraphModule, path: str) -> bool:
    try:
        graph.get_submodule(path)
    except AttributeError:
        return False
    return True
