"""One row of the report for each layer: what it costs, how its tensors are quantized, how much of them is left."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.fx import GraphModule, Node

from halfstep.graph.edit import attribute, behind_quantizer, quantizer_of
from halfstep.graph.names import operator_name
from halfstep.graph.operators import Role, WeightedLayer, role_of, weighted_layer
from halfstep.graph.statistics import Statistics
from halfstep.quantizers import UniformQuantizer
from halfstep.ranges import Histogram
from halfstep.ranges.histogram import HALF
from halfstep.report.measure import histogram_counts, measure_sqnr, tensor_sqnr_db
from halfstep.report.record import FloatOperator, GridRecord, HistogramRecord, LayerFigures, LayerRecord


def describe_layers(
    float_graph: GraphModule, graph: GraphModule, statistics: Statistics, samples: tuple[Tensor, ...]
) -> tuple[tuple[LayerRecord, ...], dict[str, LayerFigures]]:
    """The rows, in the order of computation, and their histograms. ``float_graph``: the network before rounding, same node names."""
    rows = {str(node.meta["name"]): _output_of(node) for node in graph.graph.nodes if _is_row(node)}
    measured = measure_sqnr(float_graph, graph, {str(behind_quantizer(out).meta["name"]): out for out in rows.values()}, samples)
    weights = {str(n.meta["name"]): attribute(float_graph, n) for n in float_graph.graph.nodes if n.op == "get_attr"}
    records, figures = [], {}
    for name, out in rows.items():
        node = next(n for n in graph.graph.nodes if n.meta["name"] == name)
        source = str(behind_quantizer(out).meta["name"])
        records.append(_row(graph, node, out, statistics, weights, measured[source]))
        figures[name] = _figures(graph, node, out, statistics, weights)
    return tuple(records), figures


def float_operators(graph: GraphModule) -> tuple[FloatOperator, ...]:
    """Operators on float tensors that no integer kernel will run, with the reason."""
    found = []
    for node in graph.graph.nodes:
        role = role_of(node) if node.op.startswith("call") else Role.QUANTIZER
        if role not in (Role.FLOAT, Role.UNKNOWN) or not _is_float(node):
            continue
        reason = "has no integer form here" if role is Role.FLOAT else "is unknown to halfstep"
        found.append(FloatOperator(operator_name(node), str(node.meta["name"]), f"{reason}; it runs between a dequantize and a quantize"))
    return tuple(found)


def num_bytes(graph: GraphModule) -> int:
    """What the parameters take when every quantized tensor is stored as packed codes, its scales as float32, the rest as it is."""
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
    quantizer = quantizer_of(user)
    if quantizer is None or not quantizer.is_enabled:
        return x.numel() * x.element_size()
    scales = quantizer.scale.numel() * 4 if isinstance(quantizer, UniformQuantizer) else 0
    return math.ceil(x.numel() * quantizer.grid.bits / 8) + scales


def _is_float(node: Node) -> bool:
    dtype = node.meta.get("dtype")
    return dtype is not None and bool(dtype.is_floating_point)


def _is_row(node: Node) -> bool:
    """Layers with weights, and operators or inputs that own a quantizer of their output (a fused clip belongs to its layer's row)."""
    if weighted_layer(node) is not None:
        return True
    user = _quantizer_behind(node)
    if user is None or node.op == "get_attr" or quantizer_of(node) is not None or _fused_into(node) is not None:
        return False
    first = next(n for n in node.graph.nodes if n.op == "call_module" and n.target == user.target)
    return first is user


def _fused_into(node: Node) -> Node | None:
    """The layer with weights whose CLIP ``node`` is."""
    if not node.op.startswith("call") or role_of(node) is not Role.CLIP:
        return None
    source = node.all_input_nodes[0]
    return source if weighted_layer(source) is not None and len(source.users) == 1 else None


def _quantizer_behind(node: Node) -> Node | None:
    return next((user for user in node.users if quantizer_of(user) is not None), None)


def _output_of(node: Node) -> Node:
    """The node that carries the row's simulated output: the quantizer behind it or behind its clip, else the operator itself."""
    clip = next((user for user in node.users if _fused_into(user) is node), None)
    last = clip or node
    return _quantizer_behind(last) or last


def _row(graph: GraphModule, node: Node, out: Node, statistics: Statistics, weights: dict[str, Tensor], sqnr: float | None) -> LayerRecord:
    layer = weighted_layer(node)
    tensors = [] if layer is None else [behind_quantizer(n) for n in (layer.weight, layer.bias) if n is not None]
    stored = [n for n in tensors if n.op == "get_attr"]
    edges = [] if layer is None else [n for n in (layer.weight, layer.bias) if n is not None and behind_quantizer(n).op == "get_attr"]
    return LayerRecord(
        name=str(node.meta["name"]),
        operator=operator_name(node) if node.op != "placeholder" else "input",
        output_shape=tuple(size or 0 for size in behind_quantizer(out).meta["shape"][1:]),
        num_macs=None if layer is None else _num_macs(graph, layer),
        num_parameters=sum(attribute(graph, n).numel() for n in stored),
        bytes_float=sum(attribute(graph, n).numel() * 4 for n in stored),
        bytes_quantized=sum(_stored_bytes(attribute(graph, behind_quantizer(n)), n) for n in edges),
        weight=None if layer is None else _weight_grid(graph, layer, weights),
        output=_output_grid(out, statistics),
        sqnr_db=sqnr,
    )


def _num_macs(graph: GraphModule, layer: WeightedLayer) -> int | None:
    """Multiply-accumulates of one sample: every output element of a convolution sums over one slice of the weight."""
    source = behind_quantizer(layer.weight)
    if source.op != "get_attr":
        return None
    weight = attribute(graph, source)
    shape = layer.node.meta["shape"][1:]
    if layer.output_axis == 1:  # transposed: every input element is multiplied by one slice of the weight
        shape = behind_quantizer(layer.input).meta["shape"][1:]
        return None if None in shape else math.prod(shape) * weight[0].numel()
    return None if None in shape else math.prod(shape) * weight[0].numel()


def _weight_grid(graph: GraphModule, layer: WeightedLayer, weights: dict[str, Tensor]) -> GridRecord | None:
    quantizer, source = quantizer_of(layer.weight), behind_quantizer(layer.weight)
    if not isinstance(quantizer, UniformQuantizer) or source.op != "get_attr":
        return None
    exact = weights[str(source.meta["name"])]
    sqnr = tensor_sqnr_db(exact, attribute(graph, source))
    return _grid_record(quantizer, (float(exact.min()), float(exact.max())), sqnr)


def _output_grid(out: Node, statistics: Statistics) -> GridRecord | None:
    quantizer = quantizer_of(out)
    if not isinstance(quantizer, UniformQuantizer):
        return None
    histogram = statistics.histograms.get(str(behind_quantizer(out).meta["name"]))
    observed = (math.nan, math.nan) if histogram is None else (histogram.minimum, histogram.maximum)
    return _grid_record(quantizer, observed, None)


def _grid_record(quantizer: UniformQuantizer, observed: tuple[float, float], sqnr: float | None) -> GridRecord:
    scale, zero_point, grid = quantizer.scale.detach().flatten(), quantizer.zero_point.flatten(), quantizer.grid
    covered = float(((grid.minimum - zero_point) * scale).min()), float(((grid.maximum - zero_point) * scale).max())
    return GridRecord(
        grid.type_name, grid.bits, grid.symmetric, grid.channel_axis is not None, (float(scale.min()), float(scale.max())),
        (int(zero_point.min()), int(zero_point.max())), covered, observed, sqnr,
    )  # fmt: skip


def _figures(graph: GraphModule, node: Node, out: Node, statistics: Statistics, weights: dict[str, Tensor]) -> LayerFigures:
    histogram = statistics.histograms.get(str(behind_quantizer(out).meta["name"]))
    grid = _output_grid(out, statistics)
    activation = None if histogram is None else _activation_figure(histogram, None if grid is None else grid.range)
    layer = weighted_layer(node)
    source = None if layer is None else behind_quantizer(layer.weight)
    if layer is None or source is None or source.op != "get_attr" or quantizer_of(layer.weight) is None:
        return LayerFigures(activation)
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
