"""One row of the report for each layer: what it costs, how its tensors are quantized, how much of them is left."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.fx import GraphModule, Node

from halfstep.graph.edges import activation_quantizers, behind_quantizer, quantizer_of, unquantized
from halfstep.graph.edit import attribute
from halfstep.graph.macs import num_macs
from halfstep.graph.names import operator_name
from halfstep.graph.operators import ASKING, Role, WeightedLayer, clip_behind, is_float_tensor, num_tensors, role_of, weighted_layer
from halfstep.graph.statistics import Statistics
from halfstep.quantizers import LqNetsQuantizer, UniformQuantizer
from halfstep.ranges import Histogram
from halfstep.ranges.histogram import HALF
from halfstep.report.measure import histogram_counts, measure_sqnr, tensor_sqnr_db
from halfstep.report.record import FloatOperator, GridRecord, HistogramRecord, LayerFigures, LayerRecord


@dataclass(frozen=True)
class Row:
    """node: the operator, or input, the row is about; the quantizer of a tensor that layers read rounded once more. source: the node whose
    value is its result: itself, or the clip fused into it.

    out: the node that carries the result as the simulation goes on with it: the quantizer behind ``source``, or ``source``.
    """

    node: Node
    source: Node
    out: Node

    @property
    def name(self) -> str:
        """The user's."""
        return str(self.node.meta["name"])

    @property
    def tensor(self) -> str:
        """The name of the result in the float network."""
        return str(unquantized(self.source).meta["name"])

    @property
    def operator(self) -> str:
        """What the node does, in a word."""
        if self.node.op == "placeholder":
            return "input"
        return operator_name(self.node) if quantizer_of(self.node) is None else "requantize"

    @property
    def layer(self) -> WeightedLayer | None:
        """The view of an operator whose weight is stored."""
        layer = weighted_layer(self.node)
        return None if layer is None or behind_quantizer(layer.weight).op != "get_attr" else layer


def describe_layers(
    float_graph: GraphModule, graph: GraphModule, statistics: Statistics, samples: tuple[Tensor, ...]
) -> tuple[tuple[LayerRecord, ...], dict[str, LayerFigures]]:
    """The rows, in the order of computation, and their histograms. ``float_graph``: the network before rounding, same node names."""
    found = rows(graph)
    measured = measure_sqnr(float_graph, graph, {row.out: row.tensor for row in found}, samples)
    weights = {str(n.meta["name"]): attribute(float_graph, n) for n in float_graph.graph.nodes if n.op == "get_attr"}
    records = tuple(_record(graph, row, statistics, weights, measured[row.out]) for row in found)
    return records, {row.name: _figures(graph, row, statistics, weights) for row in found}


def rows(graph: GraphModule) -> list[Row]:
    """Layers with weights, and the operators and inputs that own the quantizer of their output."""
    owners = set(activation_quantizers(graph).values())
    found = []
    for node in graph.graph.nodes:
        source = clip_behind(node) or node
        if weighted_layer(node) is not None or (source in owners and node.op != "get_attr" and not _is_fused(node)):
            found.append(Row(node, source, next((user for user in source.users if quantizer_of(user) is not None), source)))
    return found


def _is_fused(node: Node) -> bool:
    """Whether ``node`` is a clip that belongs to the row of the operator before it."""
    return any(clip_behind(source) is node for source in node.all_input_nodes)


def float_operators(graph: GraphModule) -> tuple[FloatOperator, ...]:
    """Operators on float tensors that no integer kernel will run, with the reason."""
    found = []
    for node in graph.graph.nodes:
        reason = _why_float(node) if node.op.startswith("call") and is_float_tensor(node) else None
        if reason is not None:
            found.append(FloatOperator(operator_name(node), str(node.meta["name"]), reason))
    return tuple(found)


def _why_float(node: Node) -> str | None:
    """Why an operator stays in float; None where it runs on integers or only moves values."""
    role = role_of(node)
    if operator_name(node) == "embedding":
        return "it looks up rows, which are stored as codes where a grid stands behind it"
    if role in (Role.UNKNOWN, Role.FLOAT):
        what = "is unknown to halfstep" if role is Role.UNKNOWN else "has no integer form here"
        return f"it {what}; it runs between a dequantize and a quantize"
    if role is Role.CLIP:
        source = node.all_input_nodes[0]
        is_integer = clip_behind(source) is node or quantizer_of(source) is not None
        return None if is_integer else "its input is in float"
    if role not in (*ASKING, Role.AVERAGE):
        return None
    operands = [x for x in node.all_input_nodes if is_float_tensor(x)]
    if any(quantizer_of(x) is None and not (x.op == "get_attr" and weighted_layer(node) is not None) for x in operands):
        return "an operand of it is in float"
    layer = weighted_layer(node)
    weight = None if layer is None else quantizer_of(layer.weight)
    if layer is not None and weight is None:
        return "its weight is in float"
    if weight is not None and weight.grid.group_size is not None:
        return "its weight has a scale for each group of inputs"
    return "it adds or multiplies by a number" if role is Role.MERGE and num_tensors(node) < 2 else None


def num_bytes(graph: GraphModule) -> int:
    """What the parameters take: of every quantized tensor packed codes, scales in float32 and zero points as codes, the rest as it is."""
    total, seen = 0, set()
    for node in graph.graph.nodes:
        if node.op == "get_attr" and node.target not in seen:
            seen.add(node.target)
            total += _stored_bytes(attribute(graph, node), next(iter(node.users), None))
    return total


def float_bytes(graph: GraphModule) -> int:
    """What all parameters and buffers of the float network take as they are."""
    return sum(
        tensor.numel() * tensor.element_size() for name, tensor in graph.state_dict().items() if not name.endswith("num_batches_tracked")
    )


def _stored_bytes(x: Tensor, user: Node | None) -> int:
    is_table = user is not None and user.op == "call_function" and operator_name(user) == "embedding" and len(user.users) == 1
    quantizer = quantizer_of(next(iter(user.users)) if is_table and user is not None else user)  # rows are stored as what becomes of them
    if quantizer is None or not quantizer.is_enabled:
        return x.numel() * x.element_size()
    if not isinstance(quantizer, UniformQuantizer):  # the scale of a bias is the product of two others
        num_levels = quantizer.basis.numel() if isinstance(quantizer, LqNetsQuantizer) else 0
        return math.ceil(x.numel() * quantizer.grid.bits / 8) + 4 * num_levels
    num_codes = x.numel() + (0 if quantizer.grid.symmetric else quantizer.zero_point.numel())
    return math.ceil(num_codes * quantizer.grid.bits / 8) + 4 * quantizer.scale.numel()


def _record(graph: GraphModule, row: Row, statistics: Statistics, weights: dict[str, Tensor], sqnr: float | None) -> LayerRecord:
    edges = [] if row.layer is None else [n for n in (row.layer.weight, row.layer.bias) if n is not None]
    tensors = [attribute(graph, behind_quantizer(edge)) for edge in edges]
    return LayerRecord(
        name=row.name,
        operator=row.operator,
        output_shape=tuple(size or 0 for size in row.source.meta["shape"][1:]),
        num_macs=None if row.layer is None else num_macs(graph, row.layer),
        num_parameters=sum(x.numel() for x in tensors),
        bytes_float=sum(x.numel() * x.element_size() for x in tensors),
        bytes_quantized=sum(_stored_bytes(x, edge) for x, edge in zip(tensors, edges, strict=True)),
        weight=None if row.layer is None else _weight_grid(graph, row.layer, weights),
        output=_output_grid(row, statistics),
        sqnr_db=sqnr,
    )


def _weight_grid(graph: GraphModule, layer: WeightedLayer, weights: dict[str, Tensor]) -> GridRecord | None:
    quantizer, source = quantizer_of(layer.weight), behind_quantizer(layer.weight)
    if not isinstance(quantizer, UniformQuantizer):
        return None
    exact = weights[str(source.meta["name"])]
    stored = attribute(graph, source)
    record = _grid_record(quantizer, (float(exact.min()), float(exact.max())), tensor_sqnr_db(exact, stored))
    return dataclasses.replace(record, zeros=float((stored == 0).double().mean()))


def _output_grid(row: Row, statistics: Statistics) -> GridRecord | None:
    quantizer = quantizer_of(row.out)
    if not isinstance(quantizer, UniformQuantizer):
        return None
    histogram = statistics.histograms[row.tensor]
    return _grid_record(quantizer, (histogram.minimum, histogram.maximum), None)


def _grid_record(quantizer: UniformQuantizer, observed: tuple[float, float], sqnr: float | None) -> GridRecord:
    scale, zero_point, grid = quantizer.scale.detach().flatten(), quantizer.zero_point.flatten(), quantizer.grid
    covered = float(((grid.minimum - zero_point) * scale).min()), float(((grid.maximum - zero_point) * scale).max())
    return GridRecord(
        grid.type_name, grid.bits, grid.symmetric, grid.channel_axis is not None, (float(scale.min()), float(scale.max())),
        (int(zero_point.min()), int(zero_point.max())), covered, observed, sqnr, grid.group_size,
    )  # fmt: skip


def _figures(graph: GraphModule, row: Row, statistics: Statistics, weights: dict[str, Tensor]) -> LayerFigures:
    histogram, grid = statistics.histograms.get(row.tensor), _output_grid(row, statistics)
    activation = None if histogram is None else _activation_figure(histogram, None if grid is None else grid.range)
    if row.layer is None or quantizer_of(row.layer.weight) is None:
        return LayerFigures(activation)
    source = behind_quantizer(row.layer.weight)
    exact, rounded = weights[str(source.meta["name"])], attribute(graph, source)
    low, high = float(torch.minimum(exact.min(), rounded.min())), float(torch.maximum(exact.max(), rounded.max()))
    before, after = (HistogramRecord(low, high, histogram_counts(x, low, high)) for x in (exact, rounded))
    return LayerFigures(activation, before, after)


def _activation_figure(histogram: Histogram, covered: tuple[float, float] | None) -> HistogramRecord:
    """The occupied part of the histogram, sixteen bins in one."""
    width = 16 * 2.0 ** (histogram.exponent or 0)
    counts = histogram.counts.view(-1, 16).sum(1)
    occupied = torch.nonzero(counts).flatten()
    first, last = int(occupied.min()), int(occupied.max())
    start = first - HALF // 16
    return HistogramRecord(start * width, (last + 1 - HALF // 16) * width, tuple(counts[first : last + 1].tolist()), covered)
