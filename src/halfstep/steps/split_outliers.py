"""Outlier channel splitting: the input channels that hold the largest weights are given twice, each time with half of the weight.

    w x  =  w_a x + w_b x        w_a = (w - s / 2) / 2,   w_b = (w + s / 2) / 2        round(w_a / s) + round(w_b / s) = round(w / s)

w: the weights of an input channel x of a layer. s: the step of the grid (per tensor, or of the weight's output channel). The largest weight
of the layer is halved, so that its grid becomes finer for all others, and the network computes what it computed. One channel after another
is split, each time the one with the largest weight left, until there are ``ceil(expand_ratio C)`` new ones; an `index_select` in front of
the layer repeats its inputs. Zhao et al. 2019, "Improving neural network quantization without retraining using outlier channel splitting",
section 3.

s is not known before the weights are split. As in the authors' program, channels are first split into plain halves; s is the step that the
range estimator ``range`` finds for the result, and the split is done again with it. `calibrate` has to use the same range estimator for
the weights, or the two roundings do not add up. Weights that are exactly 0 are 0 in both halves. Deviations: any range estimator; only
weights are split, not activations. Grouped and depthwise layers are left alone, because their groups would become uneven, as are layers
that share their weight, layers that stay in float, layers with a scale for each group of inputs (an outlier is alone with its group there)
and the layer on the network's input, which the paper does not quantize.
"""

from __future__ import annotations

import math
from typing import Annotated, final

import torch
from pydantic import AfterValidator, Field
from torch import Tensor
from torch.fx import GraphModule

from halfstep.graph.channels import beside, has_own_parameters
from halfstep.graph.edit import add_read, attribute, finish, replace_parameter
from halfstep.graph.names import operator_name
from halfstep.graph.operators import WeightedLayer, weighted_layers
from halfstep.grid import Grid
from halfstep.ranges import RANGES, Distribution
from halfstep.registry import Spec
from halfstep.steps.abstract import STEPS, AbstractStep, Context
from halfstep.steps.float_only import refuse_quantizers
from halfstep.steps.scheme import Place


@final
@STEPS.register("split_outliers")
class SplitOutliers(AbstractStep):
    """expand_ratio: new channels of a layer's input as a share of its channels. range: the range estimator of the weights."""

    expand_ratio: float = Field(default=0.05, gt=0, le=1)
    range: Annotated[Spec, AfterValidator(RANGES.checked)] = "mse"

    def full_spec(self) -> Spec:
        """With the options of the range estimator written out."""
        return {self.name: {"expand_ratio": self.expand_ratio, "range": RANGES.create(self.range).full_spec()}}

    def apply(self, graph: GraphModule, context: Context) -> GraphModule:
        """Split channels of every layer that can take it."""
        refuse_quantizers(graph, self.name)
        layers = weighted_layers(graph)
        num_added = num_split = 0
        for index, layer in enumerate(layers):
            place = Place(layer.name, index == 0, index == len(layers) - 1)
            grid = context.scheme.weight_grid(place, layer.output_axis, operator_name(layer.node) == "linear")
            if grid is None or grid.group_size is not None or index == 0 or layer.groups > 1 or not has_own_parameters(layer):
                continue
            num_added += self._split_layer(graph, layer, grid)
            num_split += 1
        context.notes.append(f"Split {num_added} input channels of {num_split} layers.")
        return finish(graph)

    def _split_layer(self, graph: GraphModule, layer: WeightedLayer, grid: Grid) -> int:
        """Widen one layer; returns how many channels were added."""
        weight, axis = attribute(graph, layer.weight), layer.input_axis
        num_new = math.ceil(self.expand_ratio * weight.shape[axis] - 1e-9)
        halved, _ = split(weight, axis, num_new, torch.zeros(()))
        distribution = Distribution.of_tensor(halved, grid.channel_axis)
        step = RANGES.create(self.range).range(distribution, grid).fit(grid)[0].float()
        step = grid.along(step if grid.channel_axis is not None else step.squeeze(0), weight.shape)
        widened, sources = split(weight, axis, num_new, step)
        replace_parameter(graph, layer.weight, widened)
        _repeat_channels(graph, layer, sources)
        return num_new


def split(weight: Tensor, axis: int, num_new: int, step: Tensor) -> tuple[Tensor, list[int]]:
    """``weight`` with ``num_new`` further input channels along ``axis``, and of every input channel which one it repeats.

    step: of the grid, broadcasting against the weight; 0 for plain halves.
    """
    channels = [part.clone() for part in weight.detach().unsqueeze(axis + 1).unbind(axis)]
    sources = list(range(len(channels)))
    largest = [float(part.abs().max()) for part in channels]
    for _ in range(num_new):
        chosen = max(range(len(channels)), key=largest.__getitem__)
        whole = channels[chosen]
        shift = torch.where(whole == 0, 0, step / 2)
        halves = (whole - shift) / 2, (whole + shift) / 2
        channels[chosen] = halves[0]
        channels.append(halves[1])
        largest[chosen] = float(halves[0].abs().max())
        largest.append(float(halves[1].abs().max()))
        sources.append(sources[chosen])
    return torch.cat(channels, axis), sources


def _repeat_channels(graph: GraphModule, layer: WeightedLayer, sources: list[int]) -> None:
    """Put an `index_select` between the layer and its input."""
    axis = layer.channel_axis(layer.input)
    indices = add_read(graph, beside(graph, layer, "split_channels"), torch.tensor(sources), before=layer.node)
    with graph.graph.inserting_before(layer.node):
        selected = graph.graph.call_function(torch.ops.aten.index_select.default, (layer.input, axis, indices))
    shape = list(layer.input.meta["shape"])
    shape[axis] = len(sources)
    selected.meta = {**layer.input.meta, "name": f"{layer.name}:split_channels", "shape": tuple(shape)}
    layer.node.replace_input_with(layer.input, selected)
