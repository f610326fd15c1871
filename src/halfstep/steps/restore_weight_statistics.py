"""Give the quantized weights of every output channel back the spread they had.

    w_q <- xi (w_q + mu)        xi = ||w - E[w]|| / ||w_q - E[w_q]||,   mu = E[w] - E[w_q]        of one output channel

w: the float weights of the channel, w_q: the quantized ones. Rounding and clipping shrink or stretch them by a factor that is systematic
within the channel. Banner et al. 2019, "Post training 4-bit quantization of convolutional networks for rapid-deployment", section 4
("bias-correction").

xi goes into the channel's scale, so that the codes stay. Deviations: mu is left out, because a grid without a zero point for each channel
cannot hold it; what it adds to the output, mu times the sum of the inputs, is on average a constant, and `correct_bias` behind this
step finds that constant together with everything else that rounding did to the mean of the output. With one scale a tensor, xi is that of
the whole tensor; with one a group, that of the channel, for all its groups. A channel whose codes are all equal keeps its scale.
"""

from __future__ import annotations

from typing import ClassVar, final

import torch
from torch import Tensor
from torch.fx import GraphModule

from halfstep.errors import RecipeError
from halfstep.graph.edges import behind_quantizer, quantizer_of
from halfstep.graph.edit import attribute
from halfstep.graph.operators import WeightedLayer
from halfstep.grid import Grid, Quantized
from halfstep.quantizers import UniformQuantizer
from halfstep.steps.abstract import STEPS, AbstractStep, Context
from halfstep.steps.round import layers_to_round, store
from halfstep.steps.shift_scales import has_shifts


@final
@STEPS.register("restore_weight_statistics")
class RestoreWeightStatistics(AbstractStep):
    """Scale the quantized weights so that their standard deviation is that of the float weights, channel by channel."""

    quantizes: ClassVar[bool] = True

    def apply(self, graph: GraphModule, context: Context) -> GraphModule:
        """New scales, the same codes. Where a shift has to stand for the scales they are not free, and nothing is done."""
        if has_shifts(context.scheme.requantization):
            mode = context.scheme.requantization
            context.notes.append(f"The step '{self.name}' left the weights as they are: {mode} needs the scales they have.")
            return graph
        twins = {} if context.reference is None else {node.meta["name"]: node for node in context.reference.graph.nodes}
        for layer in layers_to_round(graph):
            quantizer, source = quantizer_of(layer.weight), behind_quantizer(layer.weight)
            assert isinstance(quantizer, UniformQuantizer)
            if context.reference is None or not quantizer.is_calibrated:
                raise RecipeError(f"The step '{self.name}' works on quantized weights: put it behind 'round' in the recipe.")
            codes = quantizer.quantize(attribute(graph, source))
            exact = attribute(context.reference, twins[source.meta["name"]])
            rescale(graph, layer, codes, spread_ratio(exact, codes.dequantize(), codes.grid))
        return graph


def rescale(graph: GraphModule, layer: WeightedLayer, weight: Quantized, factor: Tensor) -> None:
    """Store the layer's quantized ``weight`` with its scales multiplied by ``factor``, one a channel, or [1]; the codes stay."""
    each = factor.view([-1] + [1] * (weight.scale.ndim - 1)) if weight.scale.ndim else factor.squeeze(0)
    scale = (weight.scale.double() * each).to(weight.scale.dtype)
    store(graph, layer, Quantized(weight.codes, scale, weight.zero_point.clone(), weight.grid))


def spread_ratio(exact: Tensor, quantized: Tensor, grid: Grid) -> Tensor:
    """xi, float64: [C] along ``grid.channel_axis``, or [1] for the whole tensor; 1 where the quantized weights do not vary."""
    spreads = []
    for weight in (exact, quantized):
        rows = weight.double().reshape(1, -1) if grid.channel_axis is None else weight.double().movedim(grid.channel_axis, 0).flatten(1)
        spreads.append((rows - rows.mean(1, keepdim=True)).norm(dim=1))
    varies = (spreads[0] > 0) & (spreads[1] > 0)
    return torch.where(varies, spreads[0] / torch.where(varies, spreads[1], 1), 1)
