"""The form every step relies on, stated once as a function a test can call.

1. Nodes are placeholders, attributes (parameters, buffers), ATen operators, calls of batch norms, dropouts and quantizers, one output.
2. No operator changes its arguments.
3. Every node has a name, ``node.meta["name"]``, and no two share one.
4. Paths of inputs, attributes and modules are halfstep's own (`graph.names`).
5. Every attribute and module a node points to exists; no attribute holds NaN, no parameter or statistic infinities.
6. A quantizer stands on an edge: it has one input; a bias's quantizer refers to quantizers of the same graph.
"""

from __future__ import annotations

import operator
from collections import Counter

import torch
from torch import Tensor, nn
from torch.fx import GraphModule, Node

from halfstep.errors import GraphError
from halfstep.graph.names import is_own, stored_name
from halfstep.graph.tree import is_sound
from halfstep.quantizers import AbstractQuantizer, AccumulatorQuantizer

MODULES = (nn.modules.batchnorm._BatchNorm, nn.modules.dropout._DropoutNd, AbstractQuantizer)


def check(graph: GraphModule) -> None:
    """Raises `GraphError` that names the first node that breaks the form."""
    names = Counter(node.meta.get("name") for node in graph.graph.nodes)
    for node in graph.graph.nodes:
        _check_own_name(node)
        name = node.meta.get("name")
        if not name:
            raise GraphError(f"Node '{node.name}' has no name.")
        if names[name] > 1:
            raise GraphError(f"{names[name]} nodes are called '{name}'.")
        {"call_function": _check_function, "call_module": _check_module, "get_attr": _check_attribute}.get(node.op, _no_check)(graph, node)
    try:
        graph.graph.lint()
    except RuntimeError as error:
        raise GraphError(f"The graph is not well formed: {error}") from error


def _check_own_name(node: Node) -> None:
    kinds = {"placeholder": "x", "get_attr": "pb", "call_module": "m"}.get(node.op)
    if kinds is not None and not is_own(node.target, kinds):
        raise GraphError(f"'{node.meta.get('name')}' has the path '{node.target}', which is none of halfstep's own: it would become code.")


def _no_check(graph: GraphModule, node: Node) -> None:
    if node.op == "call_method":
        raise GraphError(f"Node '{node.meta['name']}' calls the method {node.target}, not an ATen operator.")


def _check_function(graph: GraphModule, node: Node) -> None:
    target = node.target
    if isinstance(target, torch._ops.OpOverload):
        if target._schema.is_mutable:
            raise GraphError(f"Operator {target} at '{node.meta['name']}' changes its arguments.")
    elif getattr(target, "__module__", None) not in (operator.__name__, "_operator", "math", "torch", "torch.sym_ops"):
        raise GraphError(f"'{node.meta['name']}' calls {target}, which is not an ATen operator.")


def _check_module(graph: GraphModule, node: Node) -> None:
    try:
        module = graph.get_submodule(str(node.target))
    except AttributeError:
        raise GraphError(f"'{node.meta['name']}' calls the module '{node.target}', which does not exist.") from None
    if not isinstance(module, MODULES):
        raise GraphError(f"'{node.meta['name']}' calls a {type(module).__name__}; only batch norms, dropouts and quantizers are modules.")
    if len(node.args) != 1 or not isinstance(node.args[0], Node) or node.kwargs:
        raise GraphError(f"'{node.meta['name']}' must have exactly one input.")
    if isinstance(module, AccumulatorQuantizer):
        present = {id(part) for part in graph.modules()}
        if any(id(source) not in present for source in module.sources):
            raise GraphError(f"The bias at '{node.meta['name']}' refers to a quantizer that is not in the graph.")


def _check_attribute(graph: GraphModule, node: Node) -> None:
    value, name = getattr(graph, str(node.target), None), stored_name(graph, str(node.target))
    if value is None:
        raise GraphError(f"'{node.meta['name']}' points to '{name}', which does not exist.")
    if isinstance(value, Tensor) and not is_sound(name, value):
        raise GraphError(f"'{name}' holds NaN or infinite values.")
