"""Fold batch norms into the convolution or linear layer before them.

    y = gamma (W x + b - mean) / sqrt(var + eps) + beta  =  W' x + b'
    W' = W f,   b' = (b - mean) f + beta,   f = gamma / sqrt(var + eps)      one f a output channel

f scales the axis of the weight that belongs to output channels (the second one, group by group, for transposed convolutions). Jacob
et al. 2018, section 3.2. A batch norm that is called twice, whose input is not a layer with weights of its own, or whose input has
other users, is left where it is and noted; as is one that works on another axis than the layer writes its channels on, such as BatchNorm1d
behind a linear layer on sequences. No deviation.

What the folded batch norm knew about the layer's output is kept for later steps of the same run: ``graph.meta["batch_norms"]`` holds, by
the layer's name, the mean beta and the standard deviation |gamma| of every output channel ([C], float64). Copies and saved graphs do not
have it. They do have ``graph.meta["normalized"]``, the names of those layers.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Callable
from typing import final

import torch
from torch import Tensor, nn
from torch.fx import GraphModule, Node

from halfstep.errors import GraphError
from halfstep.graph.chains import output_place
from halfstep.graph.channels import num_reads, scale_channels, write_bias
from halfstep.graph.edit import attribute, finish, set_parameter
from halfstep.graph.operators import module_of, weighted_layer
from halfstep.steps.abstract import STEPS, AbstractStep, Context

NORM_AXIS = 1
"""The axis that a batch norm works on."""


@final
@STEPS.register("fold_batch_norm")
class FoldBatchNorm(AbstractStep):
    """exclude: patterns of batch norms to leave alone."""

    exclude: tuple[str, ...] = ()

    def apply(self, graph: GraphModule, context: Context) -> GraphModule:
        """Fold what can be folded."""
        context.notes.extend(fold_batch_norms(graph, self._is_excluded))
        return graph

    def ensures(self, graph: GraphModule) -> None:
        """No batch norm that can be folded is left."""
        for node in batch_norms(graph):
            if not self._is_excluded(node) and why_not(node) is None:
                raise GraphError(f"Batch norm '{node.meta['name']}' was not folded.")

    def _is_excluded(self, node: Node) -> bool:
        return any(fnmatch.fnmatchcase(node.meta["name"], pattern) for pattern in self.exclude)


def fold_batch_norms(graph: GraphModule, is_excluded: Callable[[Node], bool] = lambda node: False) -> list[str]:
    """Fold what can be folded, in place; a note for each of the others."""
    notes = []
    for node in batch_norms(graph):
        if is_excluded(node):
            continue
        reason = why_not(node)
        if reason is None:
            _fold(graph, node)
        else:
            notes.append(f"Batch norm '{node.meta['name']}' stays in float: {reason}.")
    finish(graph)
    return notes


def batch_norms(graph: GraphModule) -> list[Node]:
    """All nodes that call a batch norm."""
    return [n for n in graph.graph.nodes if n.op == "call_module" and isinstance(module_of(n), nn.modules.batchnorm._BatchNorm)]


def why_not(node: Node) -> str | None:
    """Why a batch norm cannot be folded; None where it can."""
    source = node.args[0]
    assert isinstance(source, Node)
    layer = weighted_layer(source)
    if layer is None:
        return f"its input '{source.meta['name']}' is not a convolution or linear layer"
    if output_place(layer).axis != NORM_AXIS:
        return f"it works on axis {NORM_AXIS} of what '{source.meta['name']}' writes, whose channels lie on axis {output_place(layer).axis}"
    if len(source.users) > 1:
        return f"the output of '{source.meta['name']}' is used elsewhere too"
    if sum(other.target == node.target for other in batch_norms(node.graph.owning_module)) > 1:  # type: ignore[arg-type]
        return "it is called more than once"
    if layer.weight.op != "get_attr":
        return f"the weight of '{source.meta['name']}' is computed, not stored"
    if num_reads(layer.weight) > 1 or (layer.bias is not None and num_reads(layer.bias) > 1):
        return f"the weights of '{source.meta['name']}' are used elsewhere too"
    return None


def _fold(graph: GraphModule, node: Node) -> None:
    norm = module_of(node)
    assert isinstance(norm, nn.modules.batchnorm._BatchNorm)
    layer = weighted_layer(node.args[0])  # type: ignore[arg-type]
    assert layer is not None
    factor, shift = _affine(norm)
    weight = attribute(graph, layer.weight)
    set_parameter(graph, layer.weight, scale_channels(weight, layer, outputs=factor))
    old_bias = torch.zeros_like(factor) if layer.bias is None else attribute(graph, layer.bias).double()
    write_bias(graph, layer, old_bias * factor + shift)
    graph.meta.setdefault("batch_norms", {})[layer.name] = _statistics(norm, factor)
    graph.meta["normalized"].append(layer.name)
    node.replace_all_uses_with(layer.node)
    graph.graph.erase_node(node)


def _affine(norm: nn.modules.batchnorm._BatchNorm) -> tuple[Tensor, Tensor]:
    """(f, beta - mean f) in float64, shape [C]."""
    assert norm.running_mean is not None and norm.running_var is not None
    factor = torch.rsqrt(norm.running_var.double() + norm.eps)
    if norm.weight is not None:
        factor = factor * norm.weight.detach().double()
    shift = -norm.running_mean.double() * factor
    return factor, shift if norm.bias is None else shift + norm.bias.detach().double()


def _statistics(norm: nn.modules.batchnorm._BatchNorm, factor: Tensor) -> tuple[Tensor, Tensor]:
    """(beta, |gamma|): mean and standard deviation of what the batch norm returned on its training data."""
    mean = torch.zeros_like(factor) if norm.bias is None else norm.bias.detach().double()
    return mean, torch.ones_like(factor) if norm.weight is None else norm.weight.detach().double().abs()
