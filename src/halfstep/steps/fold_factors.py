"""Fold the number that a layer's output is multiplied by into the layer.

    c (W x + b) = (c W) x + c b
    c ((W x + b) K^T) = ((c W) x + c b) K^T

Attention multiplies its scores by such a number, or queries and keys by its root. Left there it is one more tensor that is rounded, and
computed in float by most runtimes; folded into a projection it costs nothing, since codes stay and scales are multiplied. c > 0, so that
whatever commutes with positive factors may stand between: views, ReLUs, pooling. A layer is left as it is where something else reads what
it writes, or its weights.
"""

from __future__ import annotations

import math
from typing import final

import torch
from torch.fx import GraphModule, Node

from halfstep.errors import GraphError
from halfstep.graph.channels import blocks, has_own_parameters, scale_outputs
from halfstep.graph.edit import attribute, finish
from halfstep.graph.names import operator_name
from halfstep.graph.operators import Role, WeightedLayer, role_of, weighted_layer
from halfstep.steps.abstract import STEPS, AbstractStep, Context

_COMMUTING = (Role.PASS, Role.AVERAGE)


@final
@STEPS.register("fold_factors")
class FoldFactors(AbstractStep):
    """It has no options."""

    def apply(self, graph: GraphModule, context: Context) -> GraphModule:
        """Fold what can be folded."""
        fold_factors(graph)
        return graph

    def ensures(self, graph: GraphModule) -> None:
        """No factor that can be folded is left."""
        for node in graph.graph.nodes:
            if _foldable(graph, node) is not None:
                raise GraphError(f"The factor '{node.meta['name']}' was not folded.")


def fold_factors(graph: GraphModule) -> None:
    """Fold what can be folded, in place."""
    for node in list(graph.graph.nodes):
        found = _foldable(graph, node)
        if found is None:
            continue
        layer, source, factor = found
        num_outputs = blocks(attribute(graph, layer.weight), layer).shape[:2].numel()
        scale_outputs(graph, layer, torch.full((num_outputs,), factor, dtype=torch.float64))
        node.replace_all_uses_with(source)
        graph.graph.erase_node(node)
    finish(graph)


def _foldable(graph: GraphModule, node: Node) -> tuple[WeightedLayer, Node, float] | None:
    """The layer that takes what ``node`` multiplies by, the tensor multiplied, and the factor; None where there is no such layer."""
    found = _factor(graph, node)
    if found is None:
        return None
    layer = _carrier(found[0])
    return None if layer is None else (layer, *found)


def _factor(graph: GraphModule, node: Node) -> tuple[Node, float] | None:
    """What ``node`` multiplies by a positive constant (or divides by one), and that constant; None where it does nothing like it."""
    if node.op != "call_function" or operator_name(node) not in ("mul", "div") or node.kwargs or "shape" not in node.meta:
        return None
    first, second = node.args
    if operator_name(node) == "mul" and _constant(graph, second) is None:
        first, second = second, first
    number = _constant(graph, second)
    if number is None or not 0 < number < math.inf or not isinstance(first, Node) or not _is_alike(first, node):
        return None
    return first, number if operator_name(node) == "mul" else 1 / number


def _constant(graph: GraphModule, x: object) -> float | None:
    """A number, or the only value of a stored tensor."""
    if isinstance(x, (int, float)):
        return float(x)
    if not isinstance(x, Node) or x.op != "get_attr" or attribute(graph, x).numel() != 1:
        return None
    return float(attribute(graph, x))


def _is_alike(first: Node, second: Node) -> bool:
    return all(first.meta.get(key) == second.meta[key] for key in ("shape", "dtype"))


def _carrier(node: Node) -> WeightedLayer | None:
    """The layer whose weights a factor of ``node`` can be moved into: on the way to it everything has one reader."""
    if len(node.users) != 1:
        return None
    layer = weighted_layer(node)
    if layer is not None:
        return layer if has_own_parameters(layer) else None
    if role_of(node) in _COMMUTING or operator_name(node) == "relu":
        operands = node.args[:1]
    elif role_of(node) is Role.PRODUCT:
        operands = node.args[:2]
    else:
        return None
    found = (_carrier(operand) for operand in operands if isinstance(operand, Node))
    return next((layer for layer in found if layer is not None), None)
