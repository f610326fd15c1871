"""Give every quantizer its scale: activations from the statistics of the calibration data, weights from their own values.

    scale, zero_point = fit(range(distribution))          the range estimators are in ``ranges/``

Scores, from which the outputs are made without a further layer (`graph/scores.py`), may have an estimator of their own: where a classifier
ends with an average of a map of scores, nearly all of these are small, the least squared error clips the few large ones, and those decide.

The outputs of softmaxes need no statistics: their grid is laid over 0 .. 1, in steps of 1/255 at 8 bits; and so is that of parameters which
training has left at 0: they are exact on any grid. Rows of a stored table have the range of those that the data look up, widened to that of
the whole table: calibration data meet few of a language's words. A tensor that is 0 for every calibration input has the range of what it
could hold (`possible_range`), and a note in the report.

Two guards keep the integers sound. A channel (or group) of zeros has an empty range, and its codes are 0 whatever the scale: it takes the
largest scale of its tensor, or a finer one with which the bias, all that such a channel puts out, has 2^16 codes. A bias must fit into
int32 next to the products: where |bias| / (s_x s_w) would pass 2^30, the channel's s_w is raised until it does not (its weights are then so
small that the bias decides the output). Where the scheme's requantization is a shift, the weights' scales are moved to ones that a shift
can stand for (`shift_scales`).
"""

from __future__ import annotations

from typing import Annotated, ClassVar, final

import torch
from pydantic import AfterValidator
from torch import Tensor
from torch.fx import GraphModule, Node

from halfstep.errors import CalibrationError, GraphError, first_few
from halfstep.graph.edges import activation_quantizers, behind_quantizer, quantizer_of, rounded_tensors, unquantized
from halfstep.graph.edit import attribute
from halfstep.graph.masking import is_probability
from halfstep.graph.names import operator_name, stored_name
from halfstep.graph.operators import WeightedLayer, weighted_layers
from halfstep.graph.scores import find_scores
from halfstep.quantizers import AccumulatorQuantizer, UniformQuantizer, quantizers
from halfstep.ranges import RANGES, AbstractRange, Distribution, Histogram, Range
from halfstep.registry import Spec
from halfstep.steps.abstract import STEPS, AbstractStep, Context
from halfstep.steps.possible_range import is_cancelled, possible_range, widened
from halfstep.steps.scheme import Requantization
from halfstep.steps.shift_scales import has_shifts, raised, shift_scale

_RangeSpec = Annotated[Spec, AfterValidator(RANGES.checked)]
_LARGEST_BIAS = 2**30
_NAMED = 8  # tensors in a note or an error
_FINE_BIAS = 2**16  # codes of the bias of a row of zeros: half a code off is 2^-17 of it, less than half a step of any grid of 16 bits
_SMALLEST_SCALE = 2.0**-100  # in float32, with room for the product with the input's scale
_ZERO_TO_ONE = Range(torch.zeros(1, dtype=torch.float64), torch.ones(1, dtype=torch.float64))


@final
@STEPS.register("calibrate")
class Calibrate(AbstractStep):
    """weights, activations, scores: the range estimator of each, as its name or ``{name: {option: value}}``.

    Without one of their own scores have that of activations. strict: whether a tensor that is 0 for every calibration input is an error.
    """

    quantizes: ClassVar[bool] = True

    weights: _RangeSpec = "mse"
    activations: _RangeSpec = "mse"
    scores: _RangeSpec | None = None
    strict: bool = False

    def full_spec(self) -> Spec:
        """With the options of all range estimators written out."""
        given = {role: getattr(self, role) for role in ("weights", "activations", "scores")}
        ranges = {role: None if spec is None else RANGES.create(spec).full_spec() for role, spec in given.items()}
        return {self.name: {**ranges, "strict": self.strict}}

    def needs(self, graph: GraphModule) -> set[str]:
        """The tensors that an activation quantizer rounds: the report shows all, also those whose grid another one owns."""
        return {str(unquantized(node).meta["name"]) for node in rounded_tensors(graph) if node.op != "get_attr"}

    def apply(self, graph: GraphModule, context: Context) -> GraphModule:
        """Set scales and zero points and switch every quantizer on; `CalibrationError` on tensors that are always 0, if ``strict``."""
        self._calibrate_activations(graph, context)
        context.weight_range = RANGES.create(self.weights)
        _calibrate_weights(graph, context.weight_range, context.scheme.requantization)
        for _, quantizer in quantizers(graph):
            if isinstance(quantizer, AccumulatorQuantizer):
                quantizer.is_enabled = True
        return graph

    def _calibrate_activations(self, graph: GraphModule, context: Context) -> None:
        activation_range: AbstractRange = RANGES.create(self.activations)
        score_range: AbstractRange = activation_range if self.scores is None else RANGES.create(self.scores)
        scores = {str(node.target) for node in find_scores(graph) if quantizer_of(node) is not None}
        dead: list[Node] = []
        for path, node in activation_quantizers(graph).items():
            quantizer = graph.get_submodule(path)
            assert isinstance(quantizer, UniformQuantizer)
            is_parameter = node.op == "get_attr"  # what depends on parameters alone was stored at capture
            if is_parameter:
                distribution = Distribution.of_tensor(attribute(graph, node))
            else:
                distribution = context.statistics.histograms[str(unquantized(node).meta["name"])].distribution()
            magnitude = max(abs(float(distribution.minimum)), abs(float(distribution.maximum)))
            is_zero = magnitude == 0 or (not is_parameter and is_cancelled(node, magnitude, dead))
            value_range = score_range if path in scores else activation_range
            if is_probability(node) or (is_zero and is_parameter):
                chosen = _ZERO_TO_ONE
            elif is_zero:
                dead.append(node)
                chosen = possible_range(node, quantizer.grid)
            else:
                chosen = value_range.range(distribution, quantizer.grid)
            table = _table(graph, node)
            if table is not None:
                chosen = _around(chosen, value_range.range(table, quantizer.grid))
            scale, zero_point = widened(node, chosen, quantizer.grid).fit(quantizer.grid)
            quantizer.set(scale.squeeze(0), zero_point.squeeze(0))
        if dead and self.strict:
            raise _no_range(_names(dead))
        if dead:
            context.notes.append(
                f"{len(dead)} tensor(s) were 0 for every calibration input: {_named(_names(dead))}. Their grids hold what they could: a "
                "clip's bounds, or what their operands hold; 'strict: true' of the step 'calibrate' makes this an error."
            )

    def ensures(self, graph: GraphModule) -> None:
        """Every quantizer is calibrated and switched on."""
        for path, quantizer in quantizers(graph):
            if not (quantizer.is_calibrated and quantizer.is_enabled):
                raise GraphError(f"Quantizer '{stored_name(graph, path)}' has no scale after calibration.")


def _names(nodes: list[Node]) -> list[str]:
    return [str(node.meta["name"]) for node in nodes]


def _table(graph: GraphModule, node: Node) -> Distribution | None:
    """Of the stored table whose rows a node looks up."""
    table = node.args[0] if node.op == "call_function" and operator_name(node) == "embedding" else None
    if not (isinstance(table, Node) and table.op == "get_attr"):
        return None
    histogram = Histogram()
    histogram.observe(attribute(graph, table))
    return histogram.distribution()


def _around(first: Range, second: Range) -> Range:
    return Range(torch.minimum(first.minimum, second.minimum), torch.maximum(first.maximum, second.maximum))


def _no_range(names: list[str]) -> CalibrationError:
    return CalibrationError(
        f"0 for every calibration input, so that no range can be found: {_named(names)}. Calibrate with data that reach them, leave them "
        f"in float with an override in the recipe's scheme, {{pattern: '{names[0]}', activations: float}}, or calibrate without 'strict'."
    )


def _named(names: list[str]) -> str:
    return first_few([f"'{name}'" for name in names], _NAMED)


def _calibrate_weights(graph: GraphModule, weight_range: AbstractRange, mode: Requantization) -> None:
    readers: dict[UniformQuantizer, list[WeightedLayer]] = {}
    for layer in weighted_layers(graph):
        quantizer = quantizer_of(layer.weight)
        if isinstance(quantizer, UniformQuantizer) and behind_quantizer(layer.weight).op == "get_attr":
            readers.setdefault(quantizer, []).append(layer)
    for quantizer, layers in readers.items():
        weight = attribute(graph, behind_quantizer(layers[0].weight))
        distribution = Distribution.of_tensor(weight, quantizer.grid.channel_axis, quantizer.grid.group_size)
        scale, zero_point = weight_range.range(distribution, quantizer.grid).fit(quantizer.grid)
        scale = _without_zeros(scale, [_zero_scale(graph, layer) for layer in layers])
        is_shift = has_shifts(mode, quantizer.grid)
        if is_shift:
            scale = shift_scale(graph, layers[0], scale, scale * 0, mode)
        for layer in layers:
            least = least_scale(graph, layer)
            scale = raised(scale, least) if is_shift else torch.maximum(scale, least)
        quantizer.set(scale.view(quantizer.scale.shape), zero_point.view(quantizer.scale.shape))


def _without_zeros(scale: Tensor, fine: list[Tensor]) -> Tensor:
    """Scales, one after the other, with those of empty ranges replaced by the largest, or finer ones; by 1 where nothing asks for any.

    fine: for every layer that reads the weight, what `_zero_scale` found.
    """
    chosen = torch.where(scale > 0, scale, torch.inf)
    largest = scale.max() if bool((scale > 0).any()) else torch.inf
    for found in fine:
        chosen = torch.where(scale > 0, scale, torch.minimum(chosen, found.clamp(max=largest)))
    is_open = torch.isinf(chosen)
    widest = chosen[~is_open].max() if bool((~is_open).any()) else torch.ones_like(scale[0])
    return torch.where(is_open, widest, chosen)


def _zero_scale(graph: GraphModule, layer: WeightedLayer) -> Tensor:
    """The weight scale [C] (or [1]) of rows of zeros with which the layer's bias, all that such a row puts out, has `_FINE_BIAS` codes.

    Biases that are far smaller than the layer's largest one have fewer, so that one shift can go on serving all channels. Infinite where
    the bias is 0 or does not lie on the accumulator's grid: any scale will do.
    """
    found = _bias_scale(graph, layer, _FINE_BIAS)
    if found is None:
        return torch.full((1,), torch.inf, dtype=torch.float64)
    return torch.where(found > 0, found.clamp(min=max(float(found.max()) / _FINE_BIAS, _SMALLEST_SCALE)), torch.inf)


def least_scale(graph: GraphModule, layer: WeightedLayer, stored: Tensor | None = None) -> Tensor:
    """The smallest weight scale [C] (or [1] per tensor) with which the layer's bias, or a new one to be ``stored``, fits its grid."""
    found = _bias_scale(graph, layer, _LARGEST_BIAS, stored)
    return torch.zeros(1, dtype=torch.float64) if found is None else found


def _bias_scale(graph: GraphModule, layer: WeightedLayer, code: int, stored: Tensor | None = None) -> Tensor | None:
    """The weight scale with which the magnitude of each bias becomes ``code``; None where the bias has no grid."""
    bias, source = quantizer_of(layer.bias), quantizer_of(layer.input)
    if bias is None or not isinstance(source, UniformQuantizer):
        return None
    stored = attribute(graph, behind_quantizer(layer.bias)) if stored is None else stored  # type: ignore[arg-type]
    magnitude = stored.double().abs()
    if bias.grid.channel_axis is None:
        magnitude = magnitude.max().view(1)
    return magnitude / (source.scale.double() * code)
