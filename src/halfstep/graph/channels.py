"""The weight of a layer by its channels, whatever kind of layer it is.

    blocks[g, r, i, k] = the weight between output channel g R + r and input channel g I + i at place k of the kernel

g: group, r: output channel of the group (R of them), i: input channel of the group (I of them). Convolutions, transposed or not, and linear
layers hold the same numbers in different orders; here they look alike.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.fx import GraphModule, Node

from halfstep.graph.edit import add_parameter, attribute, set_parameter
from halfstep.graph.names import stored_name
from halfstep.graph.operators import WeightedLayer, linear_operator


def blocks(weight: Tensor, layer: WeightedLayer) -> Tensor:
    """``weight`` as [G, R, I, K]; K is 1 for a linear layer."""
    inputs = weight.shape[0] // layer.groups if layer.is_transposed else weight.shape[1]
    rows = linear_operator(layer, weight.shape[2:]).rows(weight)
    return rows.reshape(*rows.shape[:2], inputs, -1)


def scale_channels(weight: Tensor, layer: WeightedLayer, outputs: Tensor | None = None, inputs: Tensor | None = None) -> Tensor:
    """``weight`` with its output channels multiplied by ``outputs`` [C_out] and its input channels by ``inputs`` [C_in].

    Computed in float64 and rounded once, to the type of ``weight``.
    """
    scaled = blocks(weight.detach().double(), layer)
    num_groups, num_outputs, num_inputs, _ = scaled.shape
    if outputs is not None:
        scaled = scaled * outputs.double().view(num_groups, num_outputs, 1, 1)
    if inputs is not None:
        scaled = scaled * inputs.double().view(num_groups, 1, num_inputs, 1)
    return _from_blocks(scaled, weight, layer)


def scale_outputs(graph: GraphModule, layer: WeightedLayer, factor: Tensor) -> None:
    """Multiply what the layer writes by ``factor`` [C_out]: its weight, its bias, and what is known of the batch norm folded into it."""
    set_parameter(graph, layer.weight, scale_channels(attribute(graph, layer.weight), layer, outputs=factor))
    if layer.bias is not None:
        bias = attribute(graph, layer.bias)
        set_parameter(graph, layer.bias, (bias.double() * factor).to(bias.dtype))
    known: dict[str, tuple[Tensor, Tensor]] = graph.meta.get("batch_norms", {})
    if layer.name in known:
        mean, std = known[layer.name]
        known[layer.name] = mean * factor, std * factor


def mix_outputs(graph: GraphModule, layer: WeightedLayer, matrix: Tensor) -> None:
    """Multiply what a layer without groups writes by ``matrix`` [C_out, C_out]: its weight and its bias, in float64, rounded once.

    What is known of the batch norm folded into it is forgotten: a mixture's deviation depends on how channels vary together.
    """
    weight = attribute(graph, layer.weight)
    rows = blocks(weight.double(), layer)
    set_parameter(graph, layer.weight, _from_blocks((matrix @ rows.flatten(2)).view_as(rows), weight, layer))
    if layer.bias is not None:
        bias = attribute(graph, layer.bias)
        set_parameter(graph, layer.bias, (matrix @ bias.double()).to(bias.dtype))
    graph.meta.get("batch_norms", {}).pop(layer.name, None)


def mix_inputs(graph: GraphModule, layer: WeightedLayer, matrix: Tensor) -> None:
    """Multiply the weight of a layer without groups by ``matrix`` [C, C] on the side of its inputs, in float64, rounded once.

    A linear layer may read each channel as a block of neighbouring columns.
    """
    weight = attribute(graph, layer.weight)
    columns = blocks(weight.double(), layer)
    by_channel = columns.reshape(columns.shape[1], len(matrix), -1)
    mixed = torch.einsum("rcb,cd->rdb", by_channel, matrix)
    set_parameter(graph, layer.weight, _from_blocks(mixed.reshape(columns.shape), weight, layer))


def _from_blocks(found: Tensor, weight: Tensor, layer: WeightedLayer) -> Tensor:
    """The inverse of `blocks`, in the shape and type of ``weight``."""
    return linear_operator(layer, weight.shape[2:]).weight(found.flatten(2), weight.shape).to(weight.dtype)


def response(weight: Tensor, layer: WeightedLayer, x: Tensor) -> Tensor:
    """What the weight makes of an input that is ``x`` [C_in] everywhere: [C_out], float64, away from the borders.

    Of a transposed convolution, whose outputs meet different parts of the kernel, the mean of them.
    """
    summed = blocks(weight.detach().double(), layer).sum(3)  # [G, R, I]
    share = math.prod(linear_operator(layer, weight.shape[2:]).stride) if layer.is_transposed else 1
    return (summed * x.double().view(len(summed), 1, -1)).sum(2).flatten() / share


def channel_rows(x: Tensor, axis: int) -> Tensor:
    """A tensor whose channels lie on ``axis`` as [N, C]: one row for each sample and position, if only one."""
    rows = x.movedim(axis, -1)
    return rows.reshape(-1, rows.shape[-1])


def num_reads(node: Node) -> int:
    """How many operators read the parameter that an attribute node reads, through whichever node."""
    return sum(len(other.users) for other in node.graph.nodes if other.op == "get_attr" and other.target == node.target)


def has_own_parameters(layer: WeightedLayer) -> bool:
    """Whether weight and bias are stored, not computed, and nothing else reads them."""
    parameters = [layer.weight] if layer.bias is None else [layer.weight, layer.bias]
    return all(node.op == "get_attr" and num_reads(node) == 1 for node in parameters)


def beside(graph: GraphModule, layer: WeightedLayer, leaf: str) -> str:
    """What to call a new tensor that belongs to a layer: "conv1.bias" beside "conv1.weight"."""
    return f"{stored_name(graph, str(layer.weight.target)).rpartition('.')[0] or layer.name}.{leaf}"


def write_bias(graph: GraphModule, layer: WeightedLayer, bias: Tensor) -> None:
    """Give the layer this bias [C_out], a new parameter beside its weight where it has none."""
    bias = bias.to(attribute(graph, layer.weight).dtype)
    if layer.bias is not None:
        set_parameter(graph, layer.bias, bias)
        return
    node = add_parameter(graph, beside(graph, layer, "bias"), bias, before=layer.node)
    if len(layer.node.args) > 2:
        layer.node.update_arg(2, node)
    else:
        layer.node.args = (*layer.node.args, node)


def add_to_bias(graph: GraphModule, layer: WeightedLayer, shift: Tensor) -> None:
    """Add ``shift`` [C_out] to the layer's bias, in float64; a layer that has none gets one."""
    write_bias(graph, layer, shift if layer.bias is None else attribute(graph, layer.bias).double() + shift)
