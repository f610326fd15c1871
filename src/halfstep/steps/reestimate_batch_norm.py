"""Batch-norm re-estimation: give every output channel of a quantized layer the mean and the deviation it has in the float network.

    ratio = std(W x) / std(W_q x̂)          s <- s ratio          b <- b + E[W x] - ratio E[W_q x̂]          one of each a channel

W, b: the float layer with its batch norm folded in, s: the scale of its quantized weight W_q. x: its input in the float network, x̂: behind
the quantized layers, which were re-estimated before. A batch norm whose statistics are measured again on the quantized network returns the
mean and the deviation it was trained to return; folded into the layer that is a factor and a shift of every channel, and the scale of a
per-channel grid and the bias are free to take them. The codes stay. Clipped and rounded inputs change the deviation of an output by some
percent at 4 bits, layer after layer; the ranges of the activations were calibrated for the deviations of the float network. Sun et al.
2019, "Hybrid 8-bit floating point (HFP8) training and inference for deep neural networks", re-tune batch norms for inference after
quantization.

Deviations: mean and deviation are brought back to those that the float network has on the same calibration inputs, not to what the batch
norm knew of its training data, so that a small calibration set is not mistaken for a change; layers are measured one by one in a single
walk (`steps.walk`) instead of all at once. Only the mean can be brought back where the channels' scales are not free: with a single scale
for the whole weight, with scales that a shift stands for (`shift_scales`), with a weight in float. A note says in how many layers. A
channel that does not vary in one of the two networks keeps its scale. A scale is never so small that the bias would not fit into the
accumulator (`least_scale`).
"""

from __future__ import annotations

from typing import ClassVar, final

import torch
from pydantic import Field
from torch import Tensor
from torch.fx import GraphModule

from halfstep import parallel
from halfstep.graph.edges import behind_quantizer, quantizer_of
from halfstep.graph.edit import attribute, set_parameter
from halfstep.graph.operators import WeightedLayer, weighted_layers
from halfstep.quantizers import AbstractQuantizer
from halfstep.steps.abstract import STEPS, AbstractStep, Context
from halfstep.steps.calibrate import least_scale
from halfstep.steps.correct_bias import bias_source, has_own_bias, is_quantized, no_quantized_weights, outputs
from halfstep.steps.restore_weight_statistics import rescale
from halfstep.steps.shift_scales import has_shifts
from halfstep.steps.walk import MEMORY, Walk

_SMALLEST = 1e-2  # unit of a channel's sums, relative to the largest of the layer: its first batch may be unlike the others
_NOISE = 1e-10  # a variance below this many squared units is rounding


@final
@STEPS.register("reestimate_batch_norm")
class ReestimateBatchNorm(AbstractStep):
    """Give every output channel its mean and deviation back.

    quantized_activations: whether the inputs of a layer come from behind quantized activations or behind quantized weights alone.
    memory: gigabytes of activations held in memory; more than that goes to temporary files.
    """

    quantizes: ClassVar[bool] = True

    quantized_activations: bool = True
    memory: float = Field(default=MEMORY / 2**30, gt=0)

    def apply(self, graph: GraphModule, context: Context) -> GraphModule:
        """New scales and biases, the same codes."""
        if not weighted_layers(graph):
            return graph
        if context.reference is None or not is_quantized(graph):
            raise no_quantized_weights(self.name)
        known = graph.meta.get("batch_norms", {})
        layers = {layer.node: layer for layer in weighted_layers(graph) if layer.name in known and has_own_bias(layer)}
        if not layers:
            context.notes.append("No batch norm was re-estimated: none was folded.")
            return graph
        memory = int(self.memory * 2**30)
        walk = Walk(graph, context.reference, context.batches(), with_activations=self.quantized_activations, is_shared=True, memory=memory)
        num_means = 0
        for index, node in enumerate(walk.stops(layers)):
            context.progress(self.name, index, len(layers))
            quantizer = quantizer_of(layers[node].weight)
            grid, mode = None if quantizer is None else quantizer.grid, context.scheme.requantization
            is_free = grid is not None and grid.channel_axis is not None and not has_shifts(mode, grid)
            num_means += not is_free
            _reestimate(walk, layers[node], quantizer if is_free else None)
        if num_means:
            context.notes.append(
                f"Of {num_means} layers only the means were re-estimated, not the deviations: they have one scale for the whole weight, "
                "scales that are shifts, or a weight in float."
            )
        return graph


def _reestimate(walk: Walk, layer: WeightedLayer, quantizer: AbstractQuantizer | None) -> None:
    """Set the bias of the layer before which the walk has stopped, and the scales of its ``quantizer`` where they are free."""
    means, deviations = _moments(walk, layer)
    bias = walk.constant(bias_source(layer), is_float=True).detach().double()
    ratio = torch.ones_like(bias)
    if quantizer is not None:
        weight = quantizer.quantize(attribute(walk.graph, behind_quantizer(layer.weight)))
        varies = (deviations > 0).all(0)
        ratio = torch.where(varies, deviations[0] / torch.where(varies, deviations[1], 1), 1)
        least = least_scale(walk.graph, layer, bias + means[0] - ratio * means[1])
        if weight.grid.group_size is None:  # else the bias is in float
            ratio = torch.maximum(ratio, least / weight.scale.double())
        rescale(walk.graph, layer, weight, ratio)
    stored = attribute(walk.graph, bias_source(layer))
    set_parameter(walk.graph, bias_source(layer), (bias + means[0] - ratio * means[1]).to(stored.dtype))


def _moments(walk: Walk, layer: WeightedLayer) -> tuple[Tensor, Tensor]:
    """Means and standard deviations of W x (first row) and W_q x̂ (second row) over samples and positions: [2, C_out] each, float64."""
    total, count = parallel.ExactSum(), 0
    start: tuple[Tensor, Tensor, float] | None = None
    for pair in outputs(walk, layer):
        if start is None:  # sums are taken about the very first batch's means, whoever has it
            start = parallel.collect(_first_guess(pair))[0]
        centre, unit, largest = start
        scaled = [(values - centre[row, :, None]) / unit[:, None] for row, values in enumerate(pair)]
        sums = [[part.sum(1, dtype=torch.float64), part.square_().sum(1, dtype=torch.float64)] for part in scaled]
        total.add(torch.stack([torch.stack(part) for part in sums]), largest)
        count += pair[0].shape[1]
    assert start is not None  # a walk has batches
    centre, unit, _ = start
    first, second = (total.total() / sum(parallel.collect(count))).unbind(1)
    variance = second - first.square()
    return centre + first * unit, torch.where(variance > _NOISE, variance, 0).sqrt() * unit


def _first_guess(pair: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor, float]:
    """Of one batch: means [2, C] of both outputs, a unit [C] near the larger deviation of the two, and the number of values."""
    std, mean = torch.std_mean(torch.stack(pair), 2, correction=0)
    unit = torch.maximum(std.amax(0), _SMALLEST * std.max())
    return mean, torch.where(unit > 0, unit, 1), float(pair[0].shape[1])
