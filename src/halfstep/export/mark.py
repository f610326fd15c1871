"""Prepare a quantized graph for PyTorch's ONNX exporter: only the *places* of its quantizers travel, as one marker operator.

Weights and biases leave as the plain parameters they are (the rewrite stores their codes); an activation quantizer becomes a call of
``halfstep::edge(x, name)``, which the exporter turns into an ONNX node of the same name. So the exporter traces a small graph once, and
everything that concerns quantization is decided in one place, the rewrite.
"""

from __future__ import annotations

from dataclasses import dataclass

import onnx
import torch
from onnxscript import values
from torch import Tensor
from torch.fx import GraphModule, Node

from halfstep.errors import ExportError
from halfstep.graph.edges import behind_quantizer, quantizer_of
from halfstep.graph.serialize import duplicate
from halfstep.quantizers import AbstractQuantizer, AccumulatorQuantizer, UniformQuantizer

DOMAIN = "halfstep"
_SCHEMA = onnx.defs.OpSchema


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
    _remove(node, marker)


def translation() -> dict[object, object]:
    """The exporter's translation table: marker operator -> ONNX node ``halfstep::Edge`` with the attribute ``edge``."""
    if not onnx.defs.has("Edge", DOMAIN):
        tensor = [("T", ["tensor(float)", "tensor(float16)", "tensor(double)", "tensor(bfloat16)"], "")]
        x, y = _SCHEMA.FormalParameter("x", "T"), _SCHEMA.FormalParameter("y", "T")
        name = _SCHEMA.Attribute("edge", _SCHEMA.AttrType.STRING)
        onnx.defs.register_schema(_SCHEMA("Edge", DOMAIN, 1, inputs=[x], outputs=[y], type_constraints=tensor, attributes=[name]))
    opset = values.Opset(DOMAIN, 1)

    def translate(x: object, name: str) -> object:
        return opset.Edge(x, edge=name)

    return {torch.ops.halfstep.edge.default: translate}
