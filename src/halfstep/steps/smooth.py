"""SmoothQuant: share the range of each input channel out between the activation and the weights that meet it.

    Y = (X diag(s)^-1) (diag(s) W)        s_j = max|X_j|^alpha / max|W_j|^(1 - alpha)                    (4)

X_j: input channel j of linear layers that read the same tensor, over the calibration data. W_j: the weights of all of them that meet it.
alpha: 1/2 makes both equally large, more moves more of the difficulty to the weights. One grid for a whole activation then loses less to
the few channels that are much larger than the others, which transformers have behind their normalizations. Xiao et al. 2023, "SmoothQuant:
Accurate and Efficient Post-Training Quantization for Large Language Models", section 4.

The network computes what it computed, but for the rounding of its floats. The division by s goes into what writes the tensor:

what writes the tensor                                                         and becomes smaller
layer_norm, rms_norm with weights of its own                                   weight and bias
a multiplication by a stored vector [C] (an RMS norm written out)              the vector
a layer whose output reaches these linear layers through ReLU and the like     weight and bias (`graph/chains.py`)
anything else, or one of these that something else reads as well               nothing: a division is put in front of the linear layers

The last case is that of networks that normalize behind the residual addition (BERT): the sum reads the normalized tensor too. The division
runs in float, between the normalization and the quantization, which run in float anyway; ``insert: false`` leaves such layers alone.
Deviations: the paper knows the first case alone. A channel that is always 0, or that no weight meets, keeps its scale.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import final

import torch
from pydantic import Field
from torch import Tensor
from torch.fx import GraphModule, Node

from halfstep.errors import CalibrationError
from halfstep.graph.chains import Chain, chains
from halfstep.graph.channels import has_own_parameters, num_reads, scale_channels, scale_outputs
from halfstep.graph.edit import add_parameter, attribute, finish, set_parameter
from halfstep.graph.names import operator_name
from halfstep.graph.operators import WeightedLayer, argument, weighted_layers
from halfstep.graph.run import cut, observe
from halfstep.steps.abstract import STEPS, AbstractStep, Context
from halfstep.steps.float_only import refuse_quantizers

Divide = Callable[[Tensor], None]
"""Divides a tensor of the graph by s [C], for good."""


@final
@STEPS.register("smooth")
class Smooth(AbstractStep):
    """alpha: how much of an activation's range goes to the weights, 0 to 1. insert: whether a division may be put in front of layers."""

    alpha: float = Field(default=0.5, ge=0, le=1)
    insert: bool = True

    def apply(self, graph: GraphModule, context: Context) -> GraphModule:
        """Change weights and norms, and insert divisions."""
        refuse_quantizers(graph, self.name)
        groups = _groups(graph)
        known = {chain.readers[0].layer.input: chain for chain in chains(graph) if _is_usable(chain)}
        folds = {source: _fold(graph, source, readers, known.get(source)) for source, readers in groups.items()}
        chosen = [source for source in groups if folds[source] is not None or self.insert]
        largest = _largest(graph, set(chosen), context)
        for source in chosen:
            readers = groups[source]
            factor = self._factor(largest[source], [attribute(graph, layer.weight) for layer in readers])
            divide = folds[source] or partial(_insert_division, graph, source, readers)
            divide(factor)
            for layer in readers:
                set_parameter(graph, layer.weight, scale_channels(attribute(graph, layer.weight), layer, inputs=factor))
        num_inserted = sum(folds[source] is None for source in chosen)
        context.notes.append(
            f"Smoothed the inputs of {sum(len(groups[source]) for source in chosen)} linear layers: {len(chosen) - num_inserted} times "
            f"within what writes them, {num_inserted} times by a division in front of them."
        )
        return finish(graph)

    def _factor(self, largest: Tensor, weights: list[Tensor]) -> Tensor:
        """The s [C] of equation (4), float64."""
        meeting = torch.stack([weight.double().abs().amax(0) for weight in weights]).amax(0)
        is_free = (largest > 0) & (meeting > 0)
        return torch.where(is_free, largest**self.alpha / torch.where(is_free, meeting, 1) ** (1 - self.alpha), 1.0)


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


def _fold(graph: GraphModule, source: Node, readers: list[WeightedLayer], chain: Chain | None) -> Divide | None:
    """How the division goes into what writes ``source``; None where it cannot."""
    if chain is not None:
        return lambda factor: scale_outputs(graph, chain.first, 1 / factor)
    if set(source.users) != {layer.node for layer in readers} or source.op != "call_function":
        return None
    parameters = _own_vectors(source)
    return partial(_divide_parameters, graph, parameters) if parameters else None


def _own_vectors(source: Node) -> list[Node]:
    """The stored vectors [C] that ``source``, a norm or a multiplication, is proportional to, and that nothing else reads."""
    size = source.meta["shape"][-1]
    if operator_name(source) in ("layer_norm", "rms_norm"):
        named = [argument(source, name, None) for name in (("weight", "bias") if operator_name(source) == "layer_norm" else ("weight",))]
        vectors = [vector for vector in named if vector is not None] if isinstance(named[0], Node) else []
    elif operator_name(source) == "mul":
        vectors = [x for x in source.args if isinstance(x, Node) and x.op == "get_attr"]
    else:
        vectors = []
    is_own = all(x.op == "get_attr" and num_reads(x) == 1 and tuple(x.meta["shape"]) == (size,) for x in vectors)
    return vectors if is_own else []


def _divide_parameters(graph: GraphModule, parameters: list[Node], factor: Tensor) -> None:
    for node in parameters:
        value = attribute(graph, node)
        set_parameter(graph, node, (value.double() / factor).to(value.dtype))


def _insert_division(graph: GraphModule, source: Node, readers: list[WeightedLayer], factor: Tensor) -> None:
    dtype = attribute(graph, readers[0].weight).dtype
    path = f"{str(readers[0].weight.target).rpartition('.')[0]}.smoothing".lstrip(".")
    vector = add_parameter(graph, path, factor.to(dtype), before=readers[0].node)
    with graph.graph.inserting_before(readers[0].node):
        quotient = graph.graph.call_function(torch.ops.aten.div.Tensor, (source, vector))
    quotient.meta = {**source.meta, "name": f"{readers[0].name}:smoothing"}
    for layer in readers:
        layer.node.replace_input_with(source, quotient)


def _largest(graph: GraphModule, sources: set[Node], context: Context) -> dict[Node, Tensor]:
    """max|X_j| [C] of every tensor over the calibration data, float64; raises `CalibrationError` where it is not finite."""
    found: dict[Node, Tensor] = {}

    def see(num_real: int, num_run: int, node: Node, x: Tensor) -> Tensor:
        largest = x[: len(x) * num_real // num_run].abs().flatten(0, -2).amax(0).double()
        if not bool(torch.isfinite(largest).all()):
            raise CalibrationError(
                f"The output of '{node.meta['name']}' is NaN or infinite on the calibration data: the network is broken."
            )
        found[node] = torch.maximum(found[node], largest) if node in found else largest
        return x

    num_seen = 0
    for inputs in context.batches() if sources else ():
        for part, num_real in cut(graph, inputs):
            observe(graph, part, sources, partial(see, num_real, len(part[0])))
        num_seen += len(inputs[0])
        context.progress("smooth", num_seen, context.num_samples)
    if sources and not num_seen:
        raise CalibrationError("The calibration data are empty: give at least one batch of inputs.")
    return found
