"""The few ways a step changes a graph. New tensors and modules get paths of halfstep's own; what they are called is the user's to read."""

from __future__ import annotations

from collections.abc import Collection

import torch
from torch import Tensor, nn
from torch.fx import GraphModule, Node

from halfstep.errors import GraphError, did_you_mean
from halfstep.graph.names import forget_names, kind_of, numbered, own_name, set_stored_name, stored_name
from halfstep.graph.tree import put, without_subnormals
from halfstep.quantizers import AbstractQuantizer


def add_tensor(graph: GraphModule, name: str, value: Tensor) -> str:
    """Store a tensor, a parameter or not, as ``name``, numbered where another is called so; its path."""
    path = own_name(graph, kind_of(value))
    put(graph, path, value)
    set_stored_name(graph, path, name)
    return path


def add_module(graph: GraphModule, name: str, module: nn.Module) -> str:
    """Enter a module as ``name``, numbered where another is called so; its path."""
    path = own_name(graph, "m")
    graph.add_submodule(path, module)
    set_stored_name(graph, path, name)
    return path


def add_parameter(graph: GraphModule, name: str, value: Tensor, before: Node) -> Node:
    """A new parameter and the attribute node that reads it, inserted before ``before``."""
    return add_read(graph, name, nn.Parameter(without_subnormals(value).contiguous()), before)


def add_read(graph: GraphModule, name: str, value: Tensor, before: Node) -> Node:
    """A new stored tensor, a parameter or not, and the attribute node that reads it, inserted before ``before``."""
    path = add_tensor(graph, name, value)
    with graph.graph.inserting_before(before):
        node = graph.graph.get_attr(path)
    node.meta = {"name": free_name(graph, stored_name(graph, path)), "shape": tuple(value.shape), "dtype": value.dtype}
    return node


def set_parameter(graph: GraphModule, node: Node, value: Tensor) -> None:
    """Overwrite the tensor an attribute node reads."""
    with torch.no_grad():
        attribute(graph, node).copy_(without_subnormals(value))


def replace_parameter(graph: GraphModule, node: Node, value: Tensor) -> None:
    """Put a tensor of another shape in the place of the one that an attribute node reads; a parameter where that is one."""
    value = without_subnormals(value).contiguous()
    is_parameter = str(node.target) in graph._parameters
    put(graph, str(node.target), nn.Parameter(value) if is_parameter else value)
    node.meta["shape"] = tuple(value.shape)


def attribute(graph: GraphModule, node: Node) -> Tensor:
    """The tensor an attribute node reads, cut off from gradients; it shares the parameter's memory."""
    value = getattr(graph, str(node.target))
    assert isinstance(value, Tensor)
    return value.detach()


def named_state(graph: GraphModule) -> dict[str, Tensor]:
    """The tensors of ``graph`` by the user's names: "conv1.weight", "bn1.running_mean"."""
    found = {}
    for path, tensor in graph.state_dict(keep_vars=True).items():
        own, dot, leaf = path.partition(".")
        found[f"{stored_name(graph, own)}{dot}{leaf}"] = tensor
    return found


def tensor_named(graph: GraphModule, name: str) -> Tensor:
    """The tensor that the user calls ``name``; raises `GraphError` where there is none."""
    found = named_state(graph)
    if name not in found:
        raise GraphError(f"The network holds no tensor '{name}'. {did_you_mean(name, found)}")
    return found[name]


def insert_quantizer(graph: GraphModule, source: Node, quantizer: AbstractQuantizer, users: Collection[Node] | None = None) -> Node:
    """Put ``quantizer``, entered if it is new, on the edge that leaves ``source``: for some ``users`` or for all of them."""
    name = f"{source.meta['name']}:quantize"
    known = next((path for path, module in graph.named_children() if module is quantizer), None)
    path = known or add_module(graph, name, quantizer)
    with graph.graph.inserting_after(source):
        node = graph.graph.call_module(path, (source,))
    node.meta = {**source.meta, "name": free_name(graph, name)}
    chosen = set(source.users) if users is None else users
    source.replace_all_uses_with(node, delete_user_cb=lambda other: other is not node and other in chosen)
    return node


def finish(graph: GraphModule) -> GraphModule:
    """Drop what nothing uses any more, tensors included, and regenerate the code."""
    graph.graph.eliminate_dead_code()
    graph.delete_all_unused_submodules()
    read = {str(node.target) for node in graph.graph.nodes if node.op == "get_attr"}
    for path in [path for path in (*graph._parameters, *graph._buffers) if path not in read]:
        delattr(graph, path)
    forget_names(graph)
    graph.recompile()
    return graph


def free_name(graph: GraphModule, name: str) -> str:
    """``name`` as the name of a new node, numbered where another node has it."""
    return numbered(name, {node.meta.get("name") for node in graph.graph.nodes})
