"""What training found, put back into the quantized graph it started from: fixed grids, weights on them, norms folded.

    s <- s f        bias <- h        with y = f z + h the batch norm behind a layer, f > 0

Codes stay, so that the graph computes what the trained network did. A quantizer whose levels are no grid stays in the graph, its levels
times f. Where a scale would be too small for the layer's bias to fit into the accumulator it is raised, and the codes are the nearest on
the wider grid.
"""

from __future__ import annotations

import copy
import dataclasses

import torch
from torch.fx import GraphModule

from halfstep.graph.edges import behind_quantizer, quantizer_of
from halfstep.graph.edit import attribute, finish, set_parameter
from halfstep.graph.operators import WeightedLayer, weighted_layers
from halfstep.graph.tree import put
from halfstep.grid import Grid, Quantized
from halfstep.quantizers import AbstractLearnedQuantizer, AccumulatorQuantizer, UniformQuantizer, quantizers
from halfstep.quantizers.freeze import along_channels, uniform_of, with_integer_zero_point
from halfstep.steps.calibrate import least_scale
from halfstep.steps.training.edges import is_stored_weight, leave_first_call
from halfstep.steps.training.live_norm import LiveNorm
from halfstep.steps.training.trainable import Trainable


def write_back(trainable: Trainable, graph: GraphModule) -> None:
    """Overwrite weights, biases, scales and zero points of ``graph``, from which ``trainable`` was made; its structure stays."""
    network = trainable.network
    _copy_parameters(network, graph)
    edges = [n for n in graph.graph.nodes if isinstance(quantizer_of(n), UniformQuantizer) and not is_stored_weight(n)]
    for path in dict.fromkeys(str(node.target) for node in edges):
        _write_activation(network, graph, path)
    for index, twin in enumerate(weighted_layers(network)):
        layer = weighted_layers(graph)[index]  # looked up each time: biases may lose their quantizers on the way
        norm = network.get_submodule(trainable.norms[layer.name]) if layer.name in trainable.norms else None
        assert norm is None or isinstance(norm, LiveNorm)
        _write_layer(network, twin, graph, layer, norm)


def _copy_parameters(network: GraphModule, graph: GraphModule) -> None:
    """Everything that both have and no quantizer holds: weights in float, biases, norms that were never folded."""
    found = network.state_dict()
    held = {id(tensor) for _, quantizer in quantizers(graph) for tensor in quantizer.buffers()}
    with torch.no_grad():
        for name, tensor in graph.state_dict(keep_vars=True).items():
            if id(tensor) not in held and name in found:
                tensor.copy_(found[name])


def _write_activation(network: GraphModule, graph: GraphModule, path: str) -> None:
    """The learned grid of an activation."""
    learned, fixed = network.get_submodule(path), graph.get_submodule(path)
    assert isinstance(fixed, UniformQuantizer)
    if not isinstance(learned, AbstractLearnedQuantizer):
        return
    if not learned.is_uniform:
        _keep(graph, fixed, path, learned)
        return
    found = learned.quantize(torch.zeros_like(fixed.scale))
    fixed.set(found.scale, found.zero_point)


def _keep(graph: GraphModule, fixed: UniformQuantizer, path: str, learned: AbstractLearnedQuantizer) -> None:
    """Leave a quantizer whose levels are no grid where it trained, and there alone: a second call need not find its levels on its levels.

    Biases of layers that read it have no grid any more.
    """
    leave_first_call(graph, path)
    put(graph, path, copy.deepcopy(learned).cpu().eval())
    for node in list(graph.graph.nodes):
        bias = quantizer_of(node)
        if isinstance(bias, AccumulatorQuantizer) and fixed in bias.sources:
            node.replace_all_uses_with(node.args[0])
            graph.graph.erase_node(node)
    finish(graph)


def _write_layer(network: GraphModule, twin: WeightedLayer, graph: GraphModule, layer: WeightedLayer, norm: LiveNorm | None) -> None:
    """Codes, scales and bias of one layer."""
    learned, source = quantizer_of(twin.weight), behind_quantizer(layer.weight)
    factor = shift = None
    if norm is not None:
        factor, shift = norm.affine()
        if layer.bias is not None:
            set_parameter(graph, behind_quantizer(layer.bias), shift.to(torch.float32))
    if not isinstance(learned, AbstractLearnedQuantizer) or source.op != "get_attr":
        return
    old = quantizer_of(layer.weight)
    assert isinstance(old, UniformQuantizer)
    if not learned.is_uniform:
        kept = learned if factor is None else learned.scaled(factor.float(), layer.output_axis)
        _keep(graph, old, str(layer.weight.target), kept)
        with torch.no_grad():
            codes = learned.quantize(attribute(network, behind_quantizer(twin.weight))).codes
            value = dataclasses.replace(kept.quantize(torch.zeros_like(codes)), codes=codes).dequantize()
            value = kept.quantize(value).dequantize()  # of two levels that are the same up to rounding, the one that stays
        set_parameter(graph, source, value)
        return
    with torch.no_grad():
        quantized = with_integer_zero_point(learned.quantize(attribute(network, behind_quantizer(twin.weight))))
    if factor is not None:
        quantized = along_channels(quantized, layer.output_axis)
        factor = factor.view(-1, *[1] * (quantized.scale.ndim - 1))
        quantized = dataclasses.replace(quantized, scale=(quantized.scale.double() * factor).to(quantized.scale.dtype))
    _exchange(graph, layer, quantized)
    quantized = _with_room_for_bias(graph, layer, quantized)
    quantizer = quantizer_of(layer.weight)
    assert isinstance(quantizer, UniformQuantizer)
    quantizer.set(quantized.scale, quantized.zero_point)
    set_parameter(graph, source, quantized.dequantize())


def _exchange(graph: GraphModule, layer: WeightedLayer, quantized: Quantized) -> None:
    """A quantizer for this grid in place of the weight's where it is another one, and of the bias's, which refers to it."""
    old = quantizer_of(layer.weight)
    assert isinstance(old, UniformQuantizer)
    if old.grid == quantized.grid:
        return
    new = uniform_of(quantized)
    put(graph, str(layer.weight.target), new)
    for node in graph.graph.nodes:
        bias = quantizer_of(node)
        if isinstance(bias, AccumulatorQuantizer) and old in bias.sources:
            axis = None if new.grid.channel_axis is None else 0
            replaced = AccumulatorQuantizer(Grid(bias.grid.bits, bias.grid.signed, channel_axis=axis), (bias.sources[0], new))
            replaced.is_enabled = bias.is_enabled
            put(graph, str(node.target), replaced)


def _with_room_for_bias(graph: GraphModule, layer: WeightedLayer, quantized: Quantized) -> Quantized:
    """The codes, but nearest ones on a wider grid in channels whose bias would not fit into the accumulator."""
    least = least_scale(graph, layer).to(quantized.scale)
    if bool((quantized.scale >= least).all()):
        return quantized
    scale = torch.maximum(quantized.scale, least.view(quantized.scale.shape) if quantized.scale.ndim else least.max())
    grid, shape = quantized.grid, quantized.codes.shape
    steps = torch.round(quantized.dequantize() / grid.along(scale, shape)) + grid.along(quantized.zero_point, shape)
    return dataclasses.replace(quantized, codes=torch.clamp(steps, quantized.grid.minimum, quantized.grid.maximum), scale=scale)
