"""Bias correction: give every layer's output the mean it had before its weights were quantized.

    b <- b + E[W x] - E[W_q x̂]                 empirical: over the calibration inputs
    b <- b + (W - W_q) E[x]                    analytic: E[x] from the folded batch norms, no data
    b <- b + E[w (W x - W_q x̂)] / E[w]         robust: w = (1 + |W x - W_q x̂|² / c)^-2 of each position, c the median of |W x - W_q x̂|²

W, b: the float layer. W_q: its quantized weight. x: its input in the float network. x̂: its input behind the quantized layers, with their
biases corrected before. Rounding errors of a channel do not cancel over its inputs, whose mean is not 0 behind a ReLU. Nagel et al. 2019,
"Data-free quantization through weight equalization and bias correction", section 4.2, equation 17 and appendices B to D.

Empirical: one walk through both networks (`steps.walk`), layer by layer; every layer with a bias is corrected, so that the last one, which
may stay in float, makes up for what reaches it. Robust: the mean of the usual position. Behind quantized activations a few positions are
off by far more than the others (in the last stages of MobileNetV2 one in a hundred has 40 % of the squared error): the mean that they set
does all others harm. w is that of Geman and McClure 1987, "Statistical methods for tomographic image reconstruction". Analytic: E[x] by
``graph/expectation.py``; a layer whose E[x] is not known (behind the network's input, a max pooling, a layer without a batch norm) is left
alone, and the note counts them. A layer without a bias of its own is left alone: nothing may be added to the graph at this point.
Deviations: the robust mean; those of the expectations are listed in their file.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar, Literal, final

import torch
from pydantic import Field
from torch import Tensor
from torch.fx import GraphModule

from halfstep import parallel
from halfstep.errors import RecipeError
from halfstep.graph.channels import num_reads, response
from halfstep.graph.edges import behind_quantizer, quantizer_of
from halfstep.graph.edit import attribute, set_parameter
from halfstep.graph.expectation import expected_inputs
from halfstep.graph.operators import WeightedLayer, linear_operator, weighted_layers
from halfstep.steps.abstract import STEPS, AbstractStep, Context
from halfstep.steps.walk import MEMORY, Walk

_LEAST = 1e-30  # of a median: a layer without errors keeps its mean


@final
@STEPS.register("correct_bias")
class CorrectBias(AbstractStep):
    """method: "empirical" (over the calibration inputs) or "analytic" (from folded batch norms).

    quantized_activations: whether the inputs of a layer come from behind quantized activations or behind quantized weights alone. robust:
    whether positions that are off by far more than the median count little. memory: gigabytes of activations held in memory; more than
    that goes to temporary files. All three are for the empirical form.
    """

    quantizes: ClassVar[bool] = True

    method: Literal["empirical", "analytic"] = "empirical"
    quantized_activations: bool = True
    robust: bool = False
    memory: float = Field(default=MEMORY / 2**30, gt=0)

    def apply(self, graph: GraphModule, context: Context) -> GraphModule:
        """Overwrite the stored biases."""
        if not weighted_layers(graph):
            return graph
        if context.reference is None or not is_quantized(graph):
            raise no_quantized_weights(self.name)
        layers = [layer for layer in weighted_layers(graph) if has_own_bias(layer)]
        if self.method == "empirical":
            self._correct_on_data(graph, context.reference, layers, context)
        else:
            _correct_without_data(graph, context.reference, layers, context)
        num_left = len(weighted_layers(graph)) - len(layers)
        if num_left:
            context.notes.append(f"The bias of {num_left} layers was not corrected: they have none of their own.")
        return graph

    def _correct_on_data(self, graph: GraphModule, reference: GraphModule, layers: list[WeightedLayer], context: Context) -> None:
        memory = int(self.memory * 2**30)
        walk = Walk(graph, reference, context.batches(), with_activations=self.quantized_activations, is_shared=True, memory=memory)
        by_node = {layer.node: layer for layer in layers}
        for index, node in enumerate(walk.stops(by_node)):
            context.progress(self.name, index, len(layers))
            layer = by_node[node]
            bias = attribute(graph, bias_source(layer))
            exact = walk.constant(bias_source(layer), is_float=True).double()
            set_parameter(graph, bias_source(layer), (exact + _mean_loss(walk, layer, self.robust)).to(bias.dtype))


def _mean_loss(walk: Walk, layer: WeightedLayer, is_robust: bool) -> Tensor:
    """E[w (W x - W_q x̂)] / E[w] over samples and positions, [C_out], float64; w is 1 where the mean is not robust."""
    total, weight = parallel.ExactSum(), parallel.ExactSum()
    first: tuple[float, float, float] | None = None
    for exact, rounded in outputs(walk, layer):
        loss = exact.double() - rounded.double()
        squares = loss.square().sum(0)
        if first is None:  # the very first batch, whoever has it
            first = parallel.collect((float(exact.abs().max()), exact.shape[1], float(squares.median())))[0]
        largest, count, median = first
        weights = (1 + squares / max(median, _LEAST)).pow(-2) if is_robust else torch.ones_like(squares)
        total.add(loss @ weights, largest * count)
        weight.add(weights.sum(), count)
    mean: Tensor = total.total() / weight.total()
    return mean


def outputs(walk: Walk, layer: WeightedLayer) -> Iterator[tuple[Tensor, Tensor]]:
    """W x and W_q x̂ of every part, at a stop before ``layer``: [C_out, samples and positions] each, without the bias."""
    weight, quantized = walk.constant(layer.weight, is_float=True), walk.constant(layer.weight)
    operator = linear_operator(layer, weight.shape[2:])
    for pair in walk.pairs(layer.input):
        with torch.no_grad():
            found = operator(pair.float, weight), operator(pair.quantized, quantized)
        axis = layer.channel_axis(layer.node)
        yield _channels_first(found[0], axis), _channels_first(found[1], axis)


def _channels_first(output: Tensor, axis: int) -> Tensor:
    """A layer's output as [C_out, anything]."""
    channels = output.movedim(axis, 0)
    return channels.reshape(len(channels), -1)


def _correct_without_data(graph: GraphModule, reference: GraphModule, layers: list[WeightedLayer], context: Context) -> None:
    means = expected_inputs(graph, graph.meta.get("batch_norms", {}))
    twins = {node.meta["name"]: node for node in reference.graph.nodes}
    num_unknown = 0
    for layer in layers:
        quantizer, source = quantizer_of(layer.weight), behind_quantizer(layer.weight)
        if quantizer is None or source.op != "get_attr":
            continue
        if layer.name not in means:
            num_unknown += 1
            continue
        error = attribute(reference, twins[source.meta["name"]]).double() - quantizer(attribute(graph, source)).double()
        bias = attribute(graph, bias_source(layer))
        set_parameter(graph, bias_source(layer), (bias.double() + response(error, layer, means[layer.name])).to(bias.dtype))
    if num_unknown:
        context.notes.append(f"The bias of {num_unknown} layers was not corrected: no batch norm tells the mean of their input.")


def bias_source(layer: WeightedLayer) -> torch.fx.Node:
    """The node that reads the stored bias of a layer that has one."""
    assert layer.bias is not None
    return behind_quantizer(layer.bias)


def has_own_bias(layer: WeightedLayer) -> bool:
    """Whether the layer has a stored bias that no other layer reads."""
    return layer.bias is not None and bias_source(layer).op == "get_attr" and num_reads(bias_source(layer)) == 1


def is_quantized(graph: GraphModule) -> bool:
    """Whether some layer's weight has a calibrated quantizer."""
    found = [quantizer_of(layer.weight) for layer in weighted_layers(graph)]
    return any(quantizer is not None and quantizer.is_calibrated for quantizer in found)


def no_quantized_weights(step: str) -> RecipeError:
    """What to say where `is_quantized` is false."""
    return RecipeError(
        f"The step '{step}' works on quantized weights: put it behind 'round' in the recipe. If it stands there, the scheme leaves every "
        "layer's weights in float: give one of them a grid, or leave the step out."
    )
