"""Convolutions and linear layers: codes of the weight, bias on the accumulator's grid the input's zero point folded in, one rescale."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.fx import Node

from halfstep.graph.edges import behind_quantizer, quantizer_of
from halfstep.graph.edit import attribute
from halfstep.graph.operators import WeightedLayer, linear_operator, weighted_layer
from halfstep.integer.lower.lowering import Lowering
from halfstep.integer.lower.refusal import NoIntegerFormError
from halfstep.integer.lower.target import Target
from halfstep.integer.operators import AbstractOperator, Conv, ConvTranspose, Linear
from halfstep.integer.requantization import Rescale
from halfstep.integer.value import Value
from halfstep.quantizers import AccumulatorQuantizer, UniformQuantizer


def lower_weighted(lowering: Lowering, node: Node, target: Target) -> str:
    """A `Conv`, `ConvTranspose` or `Linear`."""
    layer = weighted_layer(node)
    assert layer is not None
    x = lowering.image(layer.input, layer.num_axes) if layer.num_axes else lowering.input(layer.input)
    lowering.axis(layer.input, layer.channel_axis(layer.input))
    weight, scale = _weight(lowering, layer)
    output_scales = scale * x.scale  # of the accumulator, [1] or [C]
    value = target.value(float(output_scales.max()))
    bias = _bias(lowering, layer, weight, output_scales)
    rescale = lowering.rescale(layer.name, output_scales / value.scale)
    return lowering.emit(_operator(layer, x, value, weight, bias, rescale, target.codes(value)), value)


def _weight(lowering: Lowering, layer: WeightedLayer) -> tuple[Tensor, Tensor]:
    """(codes with zero point 0, int64; scale, float64 [1] or [C])."""
    quantizer, source = quantizer_of(layer.weight), behind_quantizer(layer.weight)
    if not isinstance(quantizer, UniformQuantizer) or not quantizer.is_enabled or source.op != "get_attr":
        raise NoIntegerFormError("its weight is in float, or computed by the network")
    if quantizer.grid.group_size is not None:
        raise NoIntegerFormError("its weight has a scale for each group of inputs, and the accumulator one for each output channel")
    quantized = quantizer.quantize(attribute(lowering.graph, source))
    codes = quantized.codes - quantizer.grid.along(quantized.zero_point, quantized.codes.shape)
    return codes.long(), quantized.scale.double().reshape(-1)


def _bias(lowering: Lowering, layer: WeightedLayer, weight: Tensor, scales: Tensor) -> Tensor:
    """Codes on the accumulator's grid, int64 [C_out]."""
    num_channels = weight.shape[1] * layer.groups if layer.is_transposed else len(weight)
    if layer.bias is None:
        return torch.zeros(num_channels, dtype=torch.int64)
    quantizer, source = quantizer_of(layer.bias), behind_quantizer(layer.bias)
    if isinstance(quantizer, AccumulatorQuantizer) and quantizer.is_enabled and source.op == "get_attr":
        return quantizer.quantize(attribute(lowering.graph, source)).codes.long()
    raise NoIntegerFormError("its bias is in float, or computed by the network")


def _operator(
    layer: WeightedLayer, x: Value, value: Value, weight: Tensor, bias: Tensor, rescale: Rescale, codes: tuple[int, int]
) -> AbstractOperator:
    start = (layer.name, (x.name,), value.name, rescale, *codes, weight)
    if layer.is_transposed:
        geometry = linear_operator(layer, weight.shape[2:])
        return ConvTranspose(
            *start, bias, geometry.stride, geometry.padding, geometry.output_padding, geometry.dilation, layer.groups
        )  # fmt: skip
    folded = bias - x.zero_point * weight.flatten(1).sum(1)
    if weight.ndim == 2:
        return Linear(*start, folded)
    geometry = linear_operator(layer, weight.shape[2:])
    ends = geometry.end_padding or (0,) * len(geometry.padding)
    padding = tuple((size, size + extra) for size, extra in zip(geometry.padding, ends, strict=True))
    return Conv(*start, folded, geometry.stride, padding, geometry.dilation, layer.groups)
