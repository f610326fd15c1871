"""Choose the code of every weight and store the weight on its grid: the methods are in ``rounding/``.

    w <- (codes - z) s          codes = rounding(w / s) + z, clipped to the grid

w: the weight, s: its scale, z: its zero point.
"""

from __future__ import annotations

from typing import final

import torch
from pydantic import field_validator
from torch.fx import GraphModule

from halfstep.errors import GraphError
from halfstep.graph.edges import behind_quantizer, quantizer_of
from halfstep.graph.edit import attribute, set_parameter
from halfstep.graph.operators import weighted_layers
from halfstep.quantizers import UniformQuantizer
from halfstep.registry import Spec
from halfstep.rounding import ROUNDINGS, AbstractRounding, RoundingProblem
from halfstep.steps.abstract import STEPS, AbstractStep, Context


@final
@STEPS.register("round")
class Round(AbstractStep):
    """method: the rounding, as its name or ``{name: {option: value}}``."""

    method: Spec = "nearest"

    @field_validator("method")
    @classmethod
    def _is_a_rounding(cls, value: Spec) -> Spec:
        ROUNDINGS.create(value)
        return value

    def apply(self, graph: GraphModule, context: Context) -> GraphModule:
        """Replace each quantized weight by ``(codes - zero_point) * scale``; its quantizer gives the same codes again."""
        rounding: AbstractRounding = ROUNDINGS.create(self.method)
        done = set()
        for layer in weighted_layers(graph):
            quantizer = quantizer_of(layer.weight)
            if not isinstance(quantizer, UniformQuantizer) or layer.weight.target in done:
                continue
            done.add(layer.weight.target)
            source = behind_quantizer(layer.weight)
            if source.op != "get_attr":
                continue
            problem = RoundingProblem(attribute(graph, source), quantizer.scale, quantizer.zero_point, quantizer.grid)
            set_parameter(graph, source, rounding.round(problem, context.generator).dequantize())
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
