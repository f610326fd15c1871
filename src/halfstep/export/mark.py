"""Prepare a quantized graph for translation to ONNX: only the *places* of its quantizers travel, as one marker operator.

Weights and biases leave as the plain parameters they are (the rewrite stores their codes); an activation quantizer becomes a call of
``halfstep::edge(x, name)``, which becomes an ONNX node of the same name. So translation knows nothing of quantization, and everything that
concerns it is decided in one place, the rewrite.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.fx import GraphModule, Node

from halfstep.errors import ExportError
from halfstep.graph.channels import num_reads
from halfstep.graph.edges import behind_quantizer, quantizer_of
from halfstep.graph.edit import add_parameter, attribute, finish, replace_parameter
from halfstep.graph.names import stored_name
from halfstep.graph.serialize import duplicate
from halfstep.quantizers import AbstractQuantizer, AccumulatorQuantizer, UniformQuantizer

DOMAIN = "halfstep"


@torch.library.custom_op(f"{DOMAIN}::edge", mutates_args=())
def edge(x: Tensor, name: str) -> Tensor:
    """The identity, under a name."""
    return x.clone()


@edge.register_fake
def _edge_shape(x: Tensor, name: str) -> Tensor:
    return torch.empty_like(x)


@dataclass(frozen=True)
class Constant:
    """A stored tensor with a quantizer. is_transposed: the file holds it with its two axes swapped."""

    quantizer: AbstractQuantizer
    is_transposed: bool = False


@dataclass(frozen=True)
class Marked:
    """A graph ready for the exporter, and what its markers and parameters stand for.

    edges: by marker, its quantizer. constants: by parameter path, weights and biases. names: the user's, of inputs, stored tensors, modules
    and markers.
    """

    graph: GraphModule
    edges: dict[str, AbstractQuantizer]
    constants: dict[str, Constant]
    names: dict[str, str]


def mark(graph: GraphModule) -> Marked:
    """A copy of ``graph`` with markers instead of quantizers."""
    marked = Marked(duplicate(graph), {}, {}, {})
    for node in list(marked.graph.graph.nodes):
        quantizer = quantizer_of(node)
        if quantizer is None:
            continue
        if not isinstance(quantizer, (UniformQuantizer, AccumulatorQuantizer)):
            way_out = getattr(quantizer, "way_out", "Use another quantizer")
            name = node.meta["name"]
            raise ExportError(f"'{name}': the levels of its quantizer, {quantizer.name}, are no grid and have no form in ONNX. {way_out}.")
        source = behind_quantizer(node)
        if source.op == "get_attr" and quantizer.is_enabled:
            _store(marked, node, source, quantizer)
        elif quantizer.is_enabled:
            marker = f"e_{len(marked.edges)}"
            _replace_by_marker(marked.graph, node, source, marker)
            marked.edges[marker], marked.names[marker] = quantizer, str(source.meta["name"])
        else:
            _remove(node, source)
    _linear_as_matmul(marked)
    finish(marked.graph)
    marked.names.update(marked.graph.meta["names"])
    marked.names.update({str(node.target): str(node.meta["name"]) for node in marked.graph.graph.nodes if node.op == "placeholder"})
    return marked


def _linear_as_matmul(marked: Marked) -> None:
    """A linear layer on more than two axes becomes a product with its transposed weight, as ONNX has it, plus its bias.

    Left to an exporter, the transposition is carried out on the weight's way out and its codes are lost. A layer whose weight has groups
    becomes one on two axes too: runtimes know no other product with groups.
    """
    graph = marked.graph.graph
    for node in [n for n in graph.nodes if n.target is torch.ops.aten.linear.default]:
        x, weight, bias = (*node.args, None)[:3]
        if not (isinstance(weight, Node) and weight.op == "get_attr") or (len(node.meta["shape"]) == 2 and not _has_groups(marked, weight)):
            continue
        stored = str(weight.target)
        swapped, turned = weight, attribute(marked.graph, weight).T.contiguous()
        if num_reads(weight) == 1:
            replace_parameter(marked.graph, weight, turned)
        else:
            swapped = add_parameter(marked.graph, f"{stored_name(marked.graph, stored)}_transposed", turned, before=node)
        if stored in marked.constants:
            marked.constants[str(swapped.target)] = Constant(marked.constants[stored].quantizer, is_transposed=True)
        with graph.inserting_before(node):
            result = graph.call_function(torch.ops.aten.matmul.default, (x, swapped))
            result.meta = dict(node.meta)
            if bias is not None:
                result = graph.call_function(torch.ops.aten.add.Tensor, (result, bias))
                result.meta = dict(node.meta)
        node.replace_all_uses_with(result)
        graph.erase_node(node)


def _has_groups(marked: Marked, weight: Node) -> bool:
    constant = marked.constants.get(str(weight.target))
    return constant is not None and constant.quantizer.grid.group_size is not None


def _store(marked: Marked, node: Node, source: Node, quantizer: AbstractQuantizer) -> None:
    """Note a constant; one that several layers share, such as the bias of a module called twice, is stored once for each of its grids."""
    path = str(source.target)
    if path in marked.constants and marked.constants[path].quantizer is not quantizer:
        name = f"{stored_name(marked.graph, path)}_of_{next(iter(node.users)).name}"
        source = add_parameter(marked.graph, name, attribute(marked.graph, source).clone(), before=node)
        path = str(source.target)
    marked.constants[path] = Constant(quantizer)
    _remove(node, source)


def _remove(node: Node, source: Node) -> None:
    node.replace_all_uses_with(source)
    node.graph.erase_node(node)


def _replace_by_marker(graph: GraphModule, node: Node, source: Node, name: str) -> None:
    with graph.graph.inserting_before(node):
        marker = graph.graph.call_function(torch.ops.halfstep.edge.default, (source, name))
    marker.meta = dict(node.meta)
    _remove(node, marker)
