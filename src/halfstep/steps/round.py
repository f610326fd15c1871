"""Choose the code of every weight and store the weight on its grid: the methods are in ``rounding/``.

    w <- (codes - z) s          codes = rounding(w / s) + z, clipped to the grid

w: the weight, s: its scale, z: its zero point. Methods that look at data get them from one walk through the network (`steps.walk`), layer
by layer, each behind the layers that are already on their grids; a method may refit s, and may leave the bias to be set so that the mean
of every output is kept:

    b <- b + W E[x] - W_q E[x̂]

x, x̂: the layer's input in the float network and behind the quantized layers (empirical bias correction, Nagel et al. 2019, equation 14,
made part of the objective). Codes that were found on data are taken only where they are no worse for the output than nearest ones with such
a bias, on samples that they were not found on (`rounding.acceptance`); a note names the layers that have channels with the latter.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import Annotated, ClassVar, final

import torch
from pydantic import AfterValidator, Field
from torch import Tensor
from torch.fx import GraphModule, Node

from halfstep.errors import CalibrationError, GraphError, first_few
from halfstep.graph.curvature import task_curvature
from halfstep.graph.edges import behind_quantizer, quantizer_of
from halfstep.graph.edit import attribute, set_parameter
from halfstep.graph.operators import WeightedLayer, linear_operator, weighted_layers
from halfstep.grid import Quantized
from halfstep.quantizers import UniformQuantizer
from halfstep.registry import Spec
from halfstep.rounding import ROUNDINGS, AbstractRounding, Moments, RoundingProblem, accepted, bias_shift, mixed
from halfstep.steps.abstract import STEPS, AbstractStep, Context
from halfstep.steps.calibrate import least_scale
from halfstep.steps.part import solve
from halfstep.steps.problem import gather_moments, gather_samples
from halfstep.steps.shift_scales import has_shifts, raised, shift_scale
from halfstep.steps.walk import MEMORY, Walk

_NAMED = 8  # layers in a note
_SLIGHT = 1e-3  # damping where only the scale is looked for


@final
@STEPS.register("round")
class Round(AbstractStep):
    """method: the rounding, as its name or ``{name: {option: value}}``.

    num_positions: output positions of each calibration input that enter the moments of a convolution, at least. quantized_activations:
    whether a layer is solved behind quantized activations or behind quantized weights alone. keep_zeros: whether weights that are exactly 0
    stay 0, as in a pruned network. memory: gigabytes of activations held in memory; more than that goes to temporary files.
    """

    quantizes: ClassVar[bool] = True

    method: Annotated[Spec, AfterValidator(ROUNDINGS.checked)] = "nearest"
    num_positions: int = Field(default=16, ge=1)
    quantized_activations: bool = True
    keep_zeros: bool = False
    memory: float = Field(default=MEMORY / 2**30, gt=0)

    def full_spec(self) -> Spec:
        """With the options of the rounding written out."""
        return {self.name: self.model_dump(mode="json") | {"method": ROUNDINGS.create(self.method).full_spec()}}

    def apply(self, graph: GraphModule, context: Context) -> GraphModule:
        """Replace each quantized weight by ``(codes - zero_point) * scale``; its quantizer gives the same codes again."""
        rounding: AbstractRounding = ROUNDINGS.create(self.method)
        layers = {layer.node: layer for layer in layers_to_round(graph)}
        if not (rounding.uses_moments or rounding.uses_samples or rounding.uses_curvature or _refines(context)):
            for index, layer in enumerate(layers.values()):
                store(graph, layer, rounding.round(self._problem(graph, layer, context), context.generator_for(index)))
            return graph
        assert context.reference is not None
        walk = Walk(
            graph,
            context.reference,
            context.batches(),
            with_activations=self.quantized_activations,
            is_shared=not rounding.uses_samples,
            memory=int(self.memory * 2**30),
        )
        refused: list[str] = []
        for index, node in enumerate(walk.stops(layers)):
            context.progress(self.name, index, len(layers))
            if self._round_layer(walk, layers[node], rounding, context, index):
                refused.append(f"'{layers[node].name}'")
        if refused:
            context.notes.append(
                f"In {len(refused)} layer(s) channels have nearest codes and a corrected bias, because those of '{rounding.name}' were not "
                f"shown to be as good on the samples of the layer: {first_few(refused, _NAMED)}."
            )
        context.notes.append(f"The walk of step '{self.name}' held at most {walk.peak_bytes / 2**20:.0f} MB of activations in memory.")
        return graph

    def ensures(self, graph: GraphModule) -> None:
        """Every quantized weight lies on its grid."""
        for layer in weighted_layers(graph):
            quantizer, source = quantizer_of(layer.weight), behind_quantizer(layer.weight)
            if quantizer is None or source.op != "get_attr":
                continue
            weight = attribute(graph, source)
            if not torch.equal(quantizer(weight), weight):
                raise GraphError(f"The weight of '{layer.name}' does not lie on its grid.")

    def _problem(self, graph: GraphModule, layer: WeightedLayer, context: Context) -> RoundingProblem:
        """What is known without data."""
        quantizer, weight = quantizer_of(layer.weight), attribute(graph, behind_quantizer(layer.weight))
        assert isinstance(quantizer, UniformQuantizer)
        bias = None if layer.bias is None else _bias_source(layer)
        return RoundingProblem(
            weight.clone(),
            quantizer.scale.clone(),
            quantizer.zero_point.clone(),
            quantizer.grid,
            linear_operator(layer, weight.shape[2:]),
            bias=None if bias is None else attribute(graph, bias).clone(),
            keep=weight == 0 if self.keep_zeros else None,
            is_scale_fixed=has_shifts(context.scheme.requantization, quantizer.grid),
        )

    def _round_layer(self, walk: Walk, layer: WeightedLayer, rounding: AbstractRounding, context: Context, index: int) -> int:
        """Solve one layer, or take what an interrupted run found, and store it; how many of its channels took nearest codes instead."""
        entry = (f"{context.position}-{self.name}", f"{index}-{layer.name}")
        saved = None if context.checkpoint is None else context.checkpoint.read(*entry)
        if saved is None:
            problem = self._with_data(self._problem(walk.graph, layer, context), walk, layer, rounding, context, index)
            try:
                saved = _solved(walk.graph, layer, problem, rounding, lambda: context.generator_for(index))
            except CalibrationError as error:
                raise CalibrationError(f"Layer '{layer.name}': {error}") from error
            if context.checkpoint is not None:
                context.checkpoint.write(*entry, saved)
        quantizer = quantizer_of(layer.weight)
        assert isinstance(quantizer, UniformQuantizer)
        on = quantizer.scale.device
        codes, scale, zero_point = (saved[part].to(on) for part in ("codes", "scale", "zero_point"))
        store(walk.graph, layer, Quantized(codes, scale, zero_point, quantizer.grid), saved.get("bias"))
        return int(saved["num_refused"])

    def _with_data(
        self, problem: RoundingProblem, walk: Walk, layer: WeightedLayer, rounding: AbstractRounding, context: Context, index: int
    ) -> RoundingProblem:
        """The problem with what ``rounding`` asks for."""
        weight, operator = problem.weight, problem.operator
        needs_moments = rounding.uses_moments or rounding.frees_bias or _refines(context)
        if needs_moments:
            moments = gather_moments(walk, layer, operator, weight, self.num_positions, context.generator_for(~index))
            problem = dataclasses.replace(problem, moments=moments if problem.bias is not None else _without_means(moments))
        if rounding.uses_samples:
            exact = walk.constant(layer.weight, is_float=True), None if layer.bias is None else walk.constant(layer.bias, is_float=True)
            problem = dataclasses.replace(problem, samples=partial(gather_samples, walk, layer, operator, *exact))
        if rounding.uses_curvature:
            source = walk.twin(behind_quantizer(layer.weight))
            problem = dataclasses.replace(problem, curvature=partial(task_curvature, walk.reference, source, context.batches()))

        def tell(share: float) -> None:
            context.progress(self.name, index + share, None)

        return _with_refined_scale(dataclasses.replace(problem, progress=tell), walk.graph, layer, context)


def layers_to_round(graph: GraphModule) -> list[WeightedLayer]:
    """The layers whose stored weight has a quantizer; of those that share a weight, the first."""
    found: dict[str, WeightedLayer] = {}
    for layer in weighted_layers(graph):
        if isinstance(quantizer_of(layer.weight), UniformQuantizer) and behind_quantizer(layer.weight).op == "get_attr":
            found.setdefault(str(behind_quantizer(layer.weight).target), layer)
    return list(found.values())


def store(graph: GraphModule, layer: WeightedLayer, quantized: Quantized, bias: Tensor | None = None) -> None:
    """Put codes, scale and, where there is a new one, bias in their places."""
    quantizer = quantizer_of(layer.weight)
    assert isinstance(quantizer, UniformQuantizer)
    quantizer.set(quantized.scale, quantized.zero_point)
    set_parameter(graph, behind_quantizer(layer.weight), quantized.dequantize())
    if bias is not None:
        source = _bias_source(layer)
        assert source is not None
        set_parameter(graph, source, bias)


def _solved(
    graph: GraphModule,
    layer: WeightedLayer,
    problem: RoundingProblem,
    rounding: AbstractRounding,
    generator: Callable[[], torch.Generator],
) -> dict[str, Tensor]:
    """Codes, scale, zero_point and, where it is a new one, bias; num_refused: channels with nearest codes in place of the rounding's."""
    quantized = solve(rounding, problem, generator())
    is_moved, num_refused = torch.tensor(rounding.frees_bias), 0
    if rounding.uses_moments and problem.moments is not None:
        is_kept, is_moved = accepted(problem, quantized, lambda part: solve(rounding, part, generator()), rounding.frees_bias)
        num_refused = int((~is_kept).sum())
        if num_refused:
            quantized = mixed(problem, quantized, is_kept)
    has_bias = problem.bias is not None and bool(is_moved.any())
    quantized = _with_room_for_bias(graph, layer, problem, quantized, _corrected_bias(problem, quantized, is_moved) if has_bias else None)
    saved = {
        "codes": quantized.codes,
        "scale": quantized.scale,
        "zero_point": quantized.zero_point,
        "num_refused": torch.tensor(num_refused),
    }
    return saved | ({"bias": _corrected_bias(problem, quantized, is_moved)} if has_bias else {})


def _corrected_bias(problem: RoundingProblem, quantized: Quantized, is_moved: Tensor) -> Tensor:
    """``b + W E[x] - W_q E[x̂]`` where it is moved [G, R], of the shape of the bias."""
    assert problem.bias is not None
    shift = bias_shift(problem, quantized) * is_moved
    return (problem.bias.double() + shift.flatten()).to(problem.bias.dtype)


def _with_room_for_bias(
    graph: GraphModule, layer: WeightedLayer, problem: RoundingProblem, quantized: Quantized, bias: Tensor | None
) -> Quantized:
    """The codes, but nearest ones on a wider grid where the bias would not fit into the accumulator with the scale that was found."""
    least = least_scale(graph, layer, bias).to(quantized.scale).view(-1)
    if bool((quantized.scale >= least).all()):
        return quantized
    least = least.view(quantized.scale.shape) if quantized.scale.ndim else least.max()
    scale = raised(quantized.scale, least) if problem.is_scale_fixed else torch.maximum(quantized.scale, least)
    wider = problem.codes(torch.round(problem.weight / problem.grid.along(scale, problem.weight.shape)), scale)
    is_kept = problem.grid.along(scale == quantized.scale, problem.weight.shape)
    return dataclasses.replace(wider, codes=torch.where(is_kept, quantized.codes, wider.codes))


def _bias_source(layer: WeightedLayer) -> Node | None:
    """The node that reads the layer's stored bias."""
    source = None if layer.bias is None else behind_quantizer(layer.bias)
    return source if source is not None and source.op == "get_attr" else None


def _without_means(moments: Moments) -> Moments:
    """For a layer that has no bias to keep its means with."""
    return dataclasses.replace(moments, mean=torch.zeros_like(moments.mean), float_mean=torch.zeros_like(moments.float_mean))


def _refines(context: Context) -> bool:
    return context.weight_range is not None and context.weight_range.refines_on_data


def _with_refined_scale(problem: RoundingProblem, graph: GraphModule, layer: WeightedLayer, context: Context) -> RoundingProblem:
    """The problem on the grid that the range estimator of the weights chooses once it sees the data."""
    if context.weight_range is None or not context.weight_range.refines_on_data:
        return problem
    quadratic = problem.quadratic(centred=False, damping=_SLIGHT)
    rows = problem.operator.rows(problem.weight)
    scale, zero_point = context.weight_range.refine(rows, quadratic.gram, quadratic.target, problem.grid, problem.scale, problem.zero_point)
    if problem.is_scale_fixed:
        least = least_scale(graph, layer).to(scale)
        scale = shift_scale(graph, layer, scale.view(-1), least, context.scheme.requantization).view(scale.shape)
    return dataclasses.replace(problem, scale=scale, zero_point=zero_point)
