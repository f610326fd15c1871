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
from halfstep.graph.edges import behind_quantizer, quantizer_of
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
class Marked:
    """A graph ready for the exporter, and what its markers and parameters stand for.

    edges: by marker name (the user's name of the tensor), its quantizer. constants: by parameter path, the quantizer of a weight or bias.
    """

    graph: GraphModule
    edges: dict[str, AbstractQuantizer]
    constants: dict[str, AbstractQuantizer]


def mark(graph: GraphModule) -> Marked:
    """A copy of ``graph`` with markers instead of quantizers."""
    marked = Marked(duplicate(graph), {}, {})
    for node in list(marked.graph.graph.nodes):
        quantizer = quantizer_of(node)
        if quantizer is None:
            continue
        if not isinstance(quantizer, (UniformQuantizer, AccumulatorQuantizer)):
            raise ExportError(f"'{node.meta['name']}': a quantizer of kind '{quantizer.name}' has no form in ONNX.")
        source = behind_quantizer(node)
        if source.op == "get_attr" and quantizer.is_enabled:
            _remove(node, source)
            marked.constants[str(source.target)] = quantizer
        elif quantizer.is_enabled:
            name = str(source.meta["name"])
            _replace_by_marker(marked.graph, node, source, name)
            marked.edges[name] = quantizer
        else:
            _remove(node, source)
    marked.graph.recompile()
    return marked


def _remove(node: Node, source: Node) -> None:
    node.replace_all_uses_with(source)
    node.graph.erase_node(node)


def _replace_by_marker(graph: GraphModule, node: Node, source: Node, name: str) -> None:
    with graph.graph.inserting_before(node):
        marker = graph.graph.call_function(torch.ops.halfstep.edge.default, (source, name))
    marker.meta = dict(node.meta)
    _remove(node, marker)
