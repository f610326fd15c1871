"""Which layers cost the outputs most: each of them quantized alone, in a network that is in float otherwise.

    cost of a layer = sum (y - y_l)^2 / sum y^2

y: all outputs of the float network. y_l: those with the codes of that layer's weights, its bias, which may be corrected for them, and
its output on its grid. Errors of layers add up about as powers do, so the largest costs are where bits or float are best spent.
"""

from __future__ import annotations

import copy

import torch
from torch import Tensor
from torch.fx import GraphModule, Node
from torch.utils import _pytree as pytree

from halfstep.graph.edges import behind_quantizer, quantizer_of
from halfstep.graph.edit import attribute
from halfstep.graph.run import run
from halfstep.quantizers import in_float
from halfstep.report.layers import Row, rows


def layer_costs(float_graph: GraphModule, graph: GraphModule, inputs: tuple[Tensor, ...]) -> dict[str, float]:
    """By layer, largest first; without those that cost nothing."""
    work = copy.deepcopy(graph)
    exact = {str(node.meta["name"]): attribute(float_graph, node) for node in float_graph.graph.nodes if node.op == "get_attr"}
    expected = _floating(run(float_graph, inputs))
    signal = sum(float(x.square().sum(dtype=torch.float64)) for x in expected)
    with in_float(work):
        codes = _to_float(work, exact)
        found = {row.name: _noise(work, row, codes, exact, expected, inputs) for row in rows(work)}
    ordered = sorted(found.items(), key=lambda item: -item[1])
    return {name: noise / signal for name, noise in ordered if noise and signal}


def _to_float(work: GraphModule, exact: dict[str, Tensor]) -> dict[str, Tensor]:
    """Put the float network's tensors into ``work``; those that were there, of quantized ones, by name."""
    kept = {}
    for node in work.graph.nodes:
        name = str(node.meta["name"])
        if node.op == "get_attr" and name in exact and exact[name].shape == attribute(work, node).shape:
            kept[name] = attribute(work, node).clone()
            attribute(work, node).copy_(exact[name])
    return kept


def _noise(
    work: GraphModule, row: Row, codes: dict[str, Tensor], exact: dict[str, Tensor], expected: list[Tensor], inputs: tuple[Tensor, ...]
) -> float:
    """The squared error of the outputs with this row alone on its grids."""
    tensors = [] if row.layer is None else [node for node in (row.layer.weight, row.layer.bias) if node is not None]
    used = [quantizer for node in (row.out, *tensors[:1]) if (quantizer := quantizer_of(node)) is not None]
    for quantizer in used:
        quantizer.is_enabled = True
    _put(work, tensors, codes)
    outputs = _floating(run(work, inputs))
    _put(work, tensors, exact)
    for quantizer in used:
        quantizer.is_enabled = False
    return sum(float((x - y).square().sum(dtype=torch.float64)) for x, y in zip(expected, outputs, strict=True))


def _put(work: GraphModule, tensors: list[Node], values: dict[str, Tensor]) -> None:
    for node in map(behind_quantizer, tensors):
        if node.op == "get_attr" and node.meta["name"] in values:
            attribute(work, node).copy_(values[str(node.meta["name"])])


def _floating(outputs: object) -> list[Tensor]:
    return [x for x in pytree.tree_leaves(outputs) if isinstance(x, Tensor) and x.is_floating_point()]
