"""What every channel is on average, without any data: the batch norms knew it.

    x ~ N(beta, gamma^2)                                             behind a layer with a folded batch norm
    E[clip(x, a, b)] = a P(x < a) + b P(x > b) + beta (F(v) - F(u)) + gamma (f(u) - f(v)),   u = (a - beta) / gamma,  v = (b - beta) / gamma

beta, gamma: mean and standard deviation. f, F: density and distribution function of the standard normal. a = 0, b = infinity is the ReLU,
b = 6 the ReLU6. Nagel et al. 2019, "Data-free quantization through weight equalization and bias correction", appendix C. An add has the sum
of means and variances, a concat those of its operands; data movement and averages keep the mean (of an average, the variance is an upper
bound). Behind a second clip the first one's result is taken for normal too. Of everything else (max pooling, the network's input, layers
without a batch norm) nothing is known.

Deviations: adds of operands that were clipped, which the paper leaves out, are taken for independent and normal. Zeros that a layer pads
its input with are not counted, as in the paper.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.fx import GraphModule, Node

from halfstep.graph.chains import Place, clip_bounds, moved, output_place
from halfstep.graph.edges import quantizer_of
from halfstep.graph.names import operator_name
from halfstep.graph.operators import Role, WeightedLayer, argument, role_of, weighted_layer, weighted_layers


class Expectation(NamedTuple):
    """Mean and variance of every channel, [C], float64, and where the channels are."""

    mean: Tensor
    variance: Tensor
    place: Place


def expected_inputs(graph: GraphModule, known: Mapping[str, tuple[Tensor, Tensor]]) -> dict[str, Tensor]:
    """By the name of each layer with weights: the mean of its input channels [C_in], where it is known.

    known: mean and standard deviation of the outputs of layers, by their names.
    """
    found: dict[Node, Expectation] = {}
    for node in graph.graph.nodes:
        expected = _expected(node, found, known)
        if expected is not None:
            found[node] = expected
    return {layer.name: mean for layer in weighted_layers(graph) if (mean := _of_inputs(layer, found)) is not None}


def _of_inputs(layer: WeightedLayer, found: Mapping[Node, Expectation]) -> Tensor | None:
    expected = found.get(layer.input)
    if expected is None:
        return None
    if expected.place.axis != layer.channel_axis(layer.input) or (layer.num_axes > 0 and expected.place.block > 1):
        return None
    return expected.mean.repeat_interleave(expected.place.block)


def _expected(node: Node, found: Mapping[Node, Expectation], known: Mapping[str, tuple[Tensor, Tensor]]) -> Expectation | None:
    layer = weighted_layer(node)
    if layer is not None:
        return _of_layer(layer, known)
    if not node.op.startswith("call") or not node.args:
        return None
    if operator_name(node) in _MERGES:
        return _MERGES[operator_name(node)](node, found)
    source = node.args[0]
    return _of_one(node, source, found[source]) if isinstance(source, Node) and source in found else None


def _of_layer(layer: WeightedLayer, known: Mapping[str, tuple[Tensor, Tensor]]) -> Expectation | None:
    if layer.name not in known:
        return None
    mean, std = known[layer.name]
    return Expectation(mean.double(), std.double().square(), output_place(layer))


def _of_one(node: Node, source: Node, expected: Expectation) -> Expectation | None:
    """Behind an operator with a single operand."""
    if quantizer_of(node) is not None:
        return expected
    if role_of(node) is Role.CLIP:
        return _of_clip(expected, *clip_bounds(node))
    if role_of(node) is Role.FLOAT or operator_name(node).startswith("max_pool"):
        return None
    place = moved(node, source, expected.place)
    return _of_channel_padding(node, expected) if place is None else expected._replace(place=place)


def _of_channel_padding(node: Node, expected: Expectation) -> Expectation | None:
    """Zero channels around those of an image (He et al. 2016, shortcuts of option A)."""
    if operator_name(node) not in ("pad", "constant_pad_nd") or role_of(node) is not Role.PASS or expected.place != (1, 1):
        return None
    padding: Any = node.args[1]
    is_constant = operator_name(node) == "constant_pad_nd" or argument(node, "mode", "constant") == "constant"
    if len(padding) // 2 != len(node.meta["shape"]) - 1 or not is_constant:
        return None
    around = padding[-2:]
    mean, variance = (torch.nn.functional.pad(part, around) for part in (expected.mean, expected.variance))
    return Expectation(mean, variance, expected.place)


def _of_sum(node: Node, found: Mapping[Node, Expectation]) -> Expectation | None:
    operands, alpha = node.args[:2], argument(node, "alpha", 1)
    parts = [found[operand] for operand in operands if isinstance(operand, Node) and operand in found]
    if len(parts) < 2 or alpha != 1:
        return None
    first, second = parts
    if first.place != second.place or len(first.mean) != len(second.mean):
        return None
    return Expectation(first.mean + second.mean, first.variance + second.variance, first.place)


def _of_concat(node: Node, found: Mapping[Node, Expectation]) -> Expectation | None:
    operands: Any = node.args[0]
    parts = [found[operand] for operand in operands if operand in found]
    axis = argument(node, "dim", 0) % len(node.meta["shape"])
    if len(parts) < len(operands) or any(part.place != (axis, 1) for part in parts):
        return None
    return Expectation(torch.cat([part.mean for part in parts]), torch.cat([part.variance for part in parts]), parts[0].place)


def _of_clip(expected: Expectation, low: float, high: float) -> Expectation:
    """Of a normal value clipped to low..high, either of which may be infinite."""
    mean, variance = expected.mean, expected.variance
    std = variance.sqrt().clamp(min=torch.finfo(torch.float64).tiny)
    below, above = torch.special.ndtr((low - mean) / std), torch.special.ndtr((mean - high) / std)
    inside = 1 - below - above
    densities = [_density((bound - mean) / std) for bound in (low, high)]
    bounds = [0.0 if math.isinf(bound) else bound for bound in (low, high)]  # times a share or density of 0
    first = bounds[0] * below + bounds[1] * above + mean * inside + std * (densities[0] - densities[1])
    second = bounds[0] ** 2 * below + bounds[1] ** 2 * above + (mean.square() + variance) * inside
    second = second + std * ((bounds[0] + mean) * densities[0] - (bounds[1] + mean) * densities[1])
    return Expectation(first, (second - first.square()).clamp(min=0), expected.place)


def _density(x: Tensor) -> Tensor:
    return torch.exp(-x.square() / 2) / math.sqrt(2 * math.pi)


_MERGES = {"add": _of_sum, "cat": _of_concat, "concat": _of_concat, "concatenate": _of_concat}
