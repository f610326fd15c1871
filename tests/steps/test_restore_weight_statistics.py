"""The spread of every channel is that of the float weights; the codes stay."""

from __future__ import annotations

from collections.abc import Iterable

import pytest
import torch
from torch import Tensor

import halfstep as hs
import zoo
from halfstep.errors import RecipeError
from halfstep.graph.edges import behind_quantizer, quantizer_of
from halfstep.graph.edit import attribute
from halfstep.graph.operators import weighted_layers
from halfstep.graph.serialize import duplicate
from halfstep.graph.statistics import Statistics
from halfstep.grid import Grid
from halfstep.quantizers import UniformQuantizer
from halfstep.steps import Calibrate, Context, FoldBatchNorm, PlaceQuantizers, RestoreWeightStatistics, Round, Scheme
from halfstep.steps.restore_weight_statistics import spread_ratio
from halfstep.steps.scheme import ActivationScheme, WeightScheme


def test_by_hand() -> None:
    """Deviations (-1, 1) become (-2, 2) in the first channel; the second has two equal codes, the third two equal weights."""
    exact = torch.tensor([[1.0, 3.0], [0.2, 0.3], [1.0, 1.0]])
    quantized = torch.tensor([[0.0, 4.0], [0.0, 0.0], [0.0, 1.0]])
    assert spread_ratio(exact, quantized, Grid(4, True, channel_axis=0)).tolist() == [0.5, 1.0, 1.0]
    whole = spread_ratio(exact, quantized, Grid(4, True))
    assert whole.tolist() == pytest.approx([float(exact.double().std() / quantized.double().std())], rel=1e-12)


@pytest.mark.parametrize("per_channel", [True, False])
@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("name", ["conv_bn_relu", "depthwise", "transposed"])
def test_spread_and_codes(name: str, per_channel: bool, symmetric: bool) -> None:
    weights = WeightScheme(type="int3", per_channel=per_channel, symmetric=symmetric)

    def batches() -> Iterable[tuple[Tensor, ...]]:
        return [zoo.ZOO[name].inputs(4)]

    context = Context(
        Scheme(weights=weights, activations=ActivationScheme(type="float")), Statistics("x"), torch.Generator(), batches=batches
    )
    graph = PlaceQuantizers().apply(FoldBatchNorm().apply(zoo.captured(name), context), context)
    context.reference = duplicate(graph)
    graph = Round().apply(Calibrate().apply(graph, context), context)
    before = {layer.name: codes(graph, layer.name) for layer in weighted_layers(graph)}
    step = RestoreWeightStatistics()
    graph = step.apply(graph, context)
    Round().ensures(graph)  # still on the grid, with its new scale
    for layer, twin in zip(weighted_layers(graph), weighted_layers(context.reference), strict=True):
        assert torch.equal(codes(graph, layer.name), before[layer.name])
        quantizer = quantizer_of(layer.weight)
        assert quantizer is not None
        exact, found = (attribute(part, behind_quantizer(entry.weight)) for part, entry in ((context.reference, twin), (graph, layer)))
        # a scale in float32: 2^-24 relative, and as much again for each weight
        assert torch.allclose(spread_ratio(exact, found, quantizer.grid), torch.ones(1, dtype=torch.float64), rtol=1e-6)


def codes(graph: torch.fx.GraphModule, name: str) -> Tensor:
    layer = next(layer for layer in weighted_layers(graph) if layer.name == name)
    quantizer = quantizer_of(layer.weight)
    assert isinstance(quantizer, UniformQuantizer)
    return quantizer.quantize(attribute(graph, behind_quantizer(layer.weight))).codes


def test_it_comes_behind_the_rounding() -> None:
    context = zoo.context()
    graph = PlaceQuantizers().apply(zoo.captured("bias_free"), context)
    with pytest.raises(RecipeError, match="'restore_weight_statistics' works on quantized weights: put it behind 'round'"):
        RestoreWeightStatistics().apply(graph, context)


def test_scales_that_a_shift_stands_for_stay() -> None:
    recipe = hs.Recipe.parse(
        {
            "name": "shifted",
            "scheme": {"weights": {"type": "int4"}, "requantization": "single_shift"},
            "steps": ["fold_batch_norm", "place_quantizers", "calibrate", {"round": {"method": "nearest"}}, "restore_weight_statistics"],
        }
    )
    result = hs.quantize(zoo.ZOO["residual"].model(), zoo.calibration_of("residual"), recipe)
    assert any("restore_weight_statistics" in note for note in result.record.notes)
    hs.lower(result)
    assert result.record.program is not None
    assert max(found.rescale_error for found in result.record.program.operators if found.kind == "conv") < 1e-6
