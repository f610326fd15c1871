"""Balance the channels: scale each of them so that rounding, of activations and weights together, disturbs the outputs least.

    argmin over s > 0 of   noise(s)        x_i <- x_i s_i        W_in[i] <- W_in[i] s_i        b_in[i] <- b_in[i] s_i
                                                                 W_out[:, i] <- W_out[:, i] / s_i

x_i: channel i of a tensor between layers. W_in, b_in: of the layers that write it. W_out: of those that read it. noise: the variance that
the outputs get from all roundings, to first order (`channel_noise`). The network computes what it computed. Where weights have a scale for
each output channel, W_in costs nothing, and nor does W_out where it is depthwise; elsewhere an activation of even channels is paid for
with weights of uneven columns, and slopes of the outputs say how much of which. Tensors that are added up share their factors
(`graph/ties.py`): the residual stream of a stage is scaled as a whole.

Meller et al. 2019, "Same, same but different: recovering neural network quantization error through weight factorization", scale channels
of activations to one range; Nagel et al. 2019, "Data-free quantization through weight equalization and bias correction", section 4.1,
those of weights; Xiao et al. 2023, "SmoothQuant", share a range out by an exponent. Deviations: all three by one measure, the noise at the
outputs, instead of ranges; additions, concatenations; and clips at an upper bound (ReLU6), which stay: a channel that was clipped on the
calibration data keeps its scale, others are scaled up to where twice their largest value would be clipped.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import final

import torch
from pydantic import Field
from torch import Tensor
from torch.fx import GraphModule, Node

from halfstep.graph.chains import clip_bounds
from halfstep.graph.channels import blocks, scale_channels, scale_outputs
from halfstep.graph.edit import attribute, finish, set_parameter
from halfstep.graph.operators import Role, role_of
from halfstep.graph.output_slopes import OutputSlopes, output_slopes
from halfstep.graph.ties import Ties, find_ties
from halfstep.grid import Grid
from halfstep.steps.abstract import STEPS, AbstractStep, Context
from halfstep.steps.channel_noise import TensorNoise, WeightNoise, quietest_factors
from halfstep.steps.channel_ranges import channel_ranges, first_inputs
from halfstep.steps.float_only import refuse_quantizers
from halfstep.steps.place_quantizers import plan_weight_grids, rounding_grids

_ROOM = 2.0  # how far above its largest value a channel is clipped at the earliest: new inputs reach further than those seen
_LARGEST = 1e4  # of a factor


@final
@STEPS.register("balance_channels")
class BalanceChannels(AbstractStep):
    """samples: calibration inputs for the ranges of the channels; the first ``slope_samples`` of them also for the slopes of the outputs.

    iterations, learning_rate: of the search for the factors, which needs no data.
    """

    samples: int = Field(default=128, ge=1)
    slope_samples: int = Field(default=32, ge=1)
    iterations: int = Field(default=200, ge=1)
    learning_rate: float = Field(default=0.05, gt=0)

    def apply(self, graph: GraphModule, context: Context) -> GraphModule:
        """Scale weights and biases; the graph itself stays."""
        refuse_quantizers(graph, self.name)
        ties = find_ties(graph)
        if bool(ties.is_bound.all()):
            context.notes.append("No channels were balanced: all of them are bound to inputs, outputs or operators that do not scale.")
            return graph
        grids, owners = rounding_grids(graph, context.scheme, ties.channels)
        ranges = _ranges(graph, ties, [*grids, *_bounded_clips(ties)], first_inputs(context, self.samples, self.name))
        slopes = output_slopes(
            graph,
            {node: ties.channels[node].place.axis for node in grids},
            [layer for layer, _ in ties.writers],
            first_inputs(context, self.slope_samples, self.name),
            context.generator_for(0),
        )
        if slopes is None:
            context.notes.append("No channels were balanced: the network's outputs have no slopes.")
            return graph
        terms: list[TensorNoise | WeightNoise] = [*_tensor_terms(ties, owners, grids, ranges, slopes)]
        terms.extend(_weight_terms(graph, ties, context, slopes))
        highest, is_fixed = _limits(ties, ranges)
        found, before, after = quietest_factors(terms, highest, is_fixed, self.iterations, self.learning_rate)
        _scale(graph, ties, found.exp())
        context.notes.append(
            f"Balanced {int((~is_fixed).sum())} channels: the noise that rounding is expected to leave at the outputs fell to "
            f"{100 * after / max(before, 1e-300):.0f} %."
        )
        return finish(graph)


def _bounded_clips(ties: Ties) -> list[Node]:
    return [node for node in ties.channels if role_of(node) is Role.CLIP and clip_bounds(node)[1] < torch.inf]


def _ranges(graph: GraphModule, ties: Ties, nodes: list[Node], batches: Iterator[tuple[Tensor, ...]]) -> dict[Node, tuple[Tensor, Tensor]]:
    """(minimum, maximum) [C] of each tensor, each widened to contain 0."""
    found = channel_ranges(graph, {node: ties.channels[node].place.axis for node in nodes}, batches)
    return {node: (low.clamp(max=0), high.clamp(min=0)) for node, (low, high) in found.items()}


def _tensor_terms(
    ties: Ties,
    owners: dict[Node, Node],
    grids: dict[Node, Grid],
    ranges: dict[Node, tuple[Tensor, Tensor]],
    slopes: OutputSlopes,
) -> Iterator[TensorNoise]:
    """One for each grid."""
    by_owner: dict[Node, list[Node]] = {}
    for node in grids:
        if node in slopes.tensors:
            by_owner.setdefault(owners[node], []).append(node)
    for nodes in by_owner.values():
        numbers = torch.cat([ties.channels[node].numbers for node in nodes])
        minimum, maximum = (torch.cat([ranges[node][end] for node in nodes]) for end in (0, 1))
        yield TensorNoise(grids[nodes[0]], numbers, minimum, maximum, torch.cat([slopes.tensors[node] for node in nodes]))


def _weight_terms(graph: GraphModule, ties: Ties, context: Context, slopes: OutputSlopes) -> Iterator[WeightNoise]:
    """One for each layer whose noise depends on factors."""
    grids, inputs = plan_weight_grids(graph, context.scheme), {layer.node: numbers for layer, numbers in ties.readers}
    for layer, outputs in ties.writers:
        grid = grids[layer.node]
        if grid is None or layer.node not in slopes.weights:
            continue
        largest = blocks(attribute(graph, layer.weight), layer).abs().amax(3)
        term = WeightNoise(grid, largest, slopes.weights[layer.node], inputs.get(layer.node), outputs)
        if not term.is_constant:
            yield term


def _limits(ties: Ties, ranges: dict[Node, tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    """(the highest logarithm of each factor, which factors stay 1): what ties and clips ask for."""
    highest = torch.full(ties.is_bound.shape, _LARGEST, dtype=torch.float64).log()
    is_fixed = ties.is_bound.clone()
    for node in _bounded_clips(ties):
        numbers, largest, bound = ties.channels[node].numbers, ranges[node][1], clip_bounds(node)[1]
        room = (bound / (_ROOM * largest).clamp(min=bound / _LARGEST)).clamp(min=1).log()
        highest[numbers] = torch.minimum(highest[numbers], room)
        is_fixed[numbers[largest >= bound]] = True
    return highest, is_fixed


def _scale(graph: GraphModule, ties: Ties, factors: Tensor) -> None:
    for layer, numbers in ties.writers:
        scale_outputs(graph, layer, factors[numbers])
    for layer, numbers in ties.readers:
        set_parameter(graph, layer.weight, scale_channels(attribute(graph, layer.weight), layer, inputs=1 / factors[numbers]))
