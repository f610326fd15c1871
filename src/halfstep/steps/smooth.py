"""SmoothQuant: share the range of each input channel out between the activation and the weights that meet it.

    Y = (X diag(s)^-1) (diag(s) W)        s_j = max|X_j|^alpha / max|W_j|^(1 - alpha)                    (4)

X_j: input channel j of linear layers that read the same tensor, over the calibration data. W_j: the weights of all of them that meet it.
alpha: 1/2 makes both equally large, more moves more of the difficulty to the weights. One grid for a whole activation then loses less to
the few channels that are much larger than the others, which transformers have behind their normalizations. Xiao et al. 2023, "SmoothQuant:
Accurate and Efficient Post-Training Quantization for Large Language Models", section 4.

The network computes what it computed, but for the rounding of its floats. The division by s goes into what writes the tensor, a norm or a
layer (`divide`). Networks that normalize behind the residual addition (BERT) read the normalized tensor in the next addition too: there the
linear layers get a copy of the norm, so that each has a grid of its own. Where nothing can take the division up it is put in front of the
linear layers; it runs in float, and is a table for each channel in an integer program. ``insert: false`` leaves such layers alone.

Deviations: the paper knows norms that nothing else reads, and divisions. A channel that is always 0, or that no weight meets, keeps its
scale. ``alpha: least_error`` chooses an alpha for each tensor, or none (`smoothing_factor`); the paper has one for a whole network.
"""

from __future__ import annotations

from functools import partial
from typing import Annotated, Literal, final

import torch
from pydantic import Field
from torch import Tensor
from torch.fx import GraphModule, Node

from halfstep.errors import CalibrationError
from halfstep.graph.chains import Chain, chains
from halfstep.graph.channels import channel_rows, has_own_parameters, scale_channels
from halfstep.graph.edit import attribute, finish, set_parameter
from halfstep.graph.names import operator_name
from halfstep.graph.operators import WeightedLayer, weighted_layers
from halfstep.graph.run import broken_at, cut, observe
from halfstep.steps.abstract import STEPS, AbstractStep, Context
from halfstep.steps.divide import division, insert_division
from halfstep.steps.float_only import refuse_quantizers
from halfstep.steps.scheme import Place
from halfstep.steps.smoothing_factor import Channels, factor_at, factor_of_least_error


@final
@STEPS.register("smooth")
class Smooth(AbstractStep):
    """alpha: how much of an activation's range goes to the weights, 0 to 1, or least_error: what suits each tensor on the scheme's grids.

    insert: whether a division may be put in front of layers.
    """

    alpha: Annotated[float, Field(ge=0, le=1)] | Literal["least_error"] = 0.5
    insert: bool = True

    def apply(self, graph: GraphModule, context: Context) -> GraphModule:
        """Change weights and norms, and insert copies of norms and divisions."""
        refuse_quantizers(graph, self.name)
        groups = _groups(graph)
        known = {chain.readers[0].layer.input: chain for chain in chains(graph) if _is_usable(chain)}
        divisions = {source: division(graph, source, readers, known.get(source)) for source, readers in groups.items()}
        chosen = [source for source in groups if divisions[source] is not None or self.insert]
        measured = _measured(graph, set(chosen), context)
        changed: list[Node] = []
        for source in chosen:
            readers, divide = groups[source], divisions[source]
            factor = self._factor(graph, source, readers, measured[source], context)
            if bool((factor == 1).all()):
                continue
            changed.append(source)
            apply = partial(insert_division, graph, source, readers) if divide is None else divide.apply
            apply(factor)
            for layer in readers:
                set_parameter(graph, layer.weight, scale_channels(attribute(graph, layer.weight), layer, inputs=factor))
        copies = sum(found is not None and found.copies for found in map(divisions.get, changed))
        num_inserted = sum(divisions[source] is None for source in changed)
        context.notes.append(
            f"Smoothed the inputs of {sum(len(groups[source]) for source in changed)} linear layers: "
            f"{len(changed) - copies - num_inserted} times within what writes them, {copies} times within a copy of it, "
            f"{num_inserted} times by a division in front of them."
        )
        return finish(graph)

    def _factor(self, graph: GraphModule, source: Node, readers: list[WeightedLayer], channels: Channels, context: Context) -> Tensor:
        """The s [C] for the layers that read ``source``, float64."""
        weights = [attribute(graph, layer.weight).double() for layer in readers]
        if self.alpha != "least_error":
            return factor_at(self.alpha, channels, weights)
        scheme = context.scheme
        grids = [scheme.weight_grid(Place(layer.name), 0, is_linear=True) for layer in readers]
        return factor_of_least_error(channels, weights, grids, scheme.activation_grid(Place(str(source.meta["name"]))))


def _groups(graph: GraphModule) -> dict[Node, list[WeightedLayer]]:
    """By tensor: the linear layers with parameters of their own that read it."""
    found: dict[Node, list[WeightedLayer]] = {}
    for layer in weighted_layers(graph):
        if operator_name(layer.node) == "linear" and has_own_parameters(layer):
            found.setdefault(layer.input, []).append(layer)
    return found


def _is_usable(chain: Chain) -> bool:
    """Whether all readers read one tensor, channel by channel, and no clip on the way has a bound."""
    return (
        chain.obstacle is None
        and not chain.bounded
        and all(reader.block == 1 and reader.layer.input is chain.readers[0].layer.input for reader in chain.readers)
        and all(operator_name(reader.layer.node) == "linear" for reader in chain.readers)
    )


def _measured(graph: GraphModule, sources: set[Node], context: Context) -> dict[Node, Channels]:
    """The channels of every tensor over the calibration data; raises `CalibrationError` where one is not finite."""
    low: dict[Node, Tensor] = {}
    high: dict[Node, Tensor] = {}
    squares: dict[Node, Tensor] = {}
    counts: dict[Node, int] = {}

    def see(num_real: int, num_run: int, node: Node, x: Tensor) -> Tensor:
        rows = channel_rows(x if x.ndim == 1 else x[: len(x) * num_real // num_run], -1)
        ends = rows.aminmax(dim=0)
        if not bool(torch.isfinite(ends.min + ends.max).all()):
            raise broken_at(node)
        low[node] = torch.minimum(low.get(node, ends.min), ends.min)
        high[node] = torch.maximum(high.get(node, ends.max), ends.max)
        squares[node] = squares.get(node, 0) + rows.square().sum(0, dtype=torch.float64)
        counts[node] = counts.get(node, 0) + len(rows)
        return x

    num_seen = 0
    for inputs in context.batches() if sources else ():
        for part, num_real in cut(graph, inputs):
            observe(graph, part, sources, partial(see, num_real, len(part[0])))
        num_seen += len(inputs[0])
        context.progress("smooth", num_seen, context.num_samples)
    if sources and not num_seen:
        raise CalibrationError("The calibration data are empty: give at least one batch of inputs.")
    return {node: Channels(low[node].double(), high[node].double(), squares[node] / counts[node]) for node in low}
