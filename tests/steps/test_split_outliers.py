"""Splitting: the function stays, the largest weight is halved, the two halves round to what the whole would; and it exports."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.fx import GraphModule

import halfstep as hs
import zoo
from halfstep.errors import RecipeError
from halfstep.export.onnx_qdq import export_onnx
from halfstep.graph.capture import capture
from halfstep.graph.check import check
from halfstep.graph.edges import quantizer_of
from halfstep.graph.edit import attribute
from halfstep.graph.operators import weighted_layers
from halfstep.graph.run import run
from halfstep.graph.serialize import duplicate
from halfstep.graph.statistics import Statistics
from halfstep.recipes import Recipe
from halfstep.steps import Context, PlaceQuantizers, Scheme, SplitOutliers
from halfstep.steps.scheme import LayerTypes
from halfstep.steps.split_outliers import split


def split_graph(graph: GraphModule, scheme: Scheme | None = None, **options: float) -> tuple[GraphModule, list[str]]:
    context = Context(scheme or Scheme(), Statistics("x"), torch.Generator())
    graph = SplitOutliers(**options).apply(graph, context)  # type: ignore[arg-type]
    check(graph)
    return graph, context.notes


@pytest.mark.parametrize("name", zoo.NAMES)
def test_the_network_computes_what_it_computed(name: str) -> None:
    graph, inputs = zoo.captured(name), zoo.ZOO[name].inputs(seed=5)
    before = zoo.leaves(run(graph, inputs))
    graph, _ = split_graph(graph, expand_ratio=0.3)
    for output, expected in zip(zoo.leaves(run(duplicate(graph), inputs)), before, strict=True):
        assert zoo.relative(output, expected) <= 1e-5  # one more rounding of a few weights to float32


def test_plain_halves_by_hand() -> None:
    """The largest weight is 8, then 6; 4, 4 and 3, 3 are left, and the largest of them is split again."""
    weight = torch.tensor([[8.0, 1.0, -6.0]])
    one, sources = split(weight, 1, 1, torch.zeros(()))
    assert one.tolist() == [[4.0, 1.0, -6.0, 4.0]] and sources == [0, 1, 2, 0]
    three, sources = split(weight, 1, 3, torch.zeros(()))
    assert three.tolist() == [[2.0, 1.0, -3.0, 4.0, -3.0, 2.0]] and sources == [0, 1, 2, 0, 2, 0]


def test_the_transposed_axis() -> None:
    weight = torch.randn(4, 2, 3, 3)
    weight[1, 0, 0, 0] = 9.0
    widened, sources = split(weight, 0, 1, torch.zeros(()))
    assert widened.shape == (5, 2, 3, 3) and sources == [0, 1, 2, 3, 1]
    assert torch.equal(widened[1] + widened[4], weight[1])


@given(st.floats(-7.4, 7.4), st.floats(0.01, 10), st.integers(1, 4))
def test_the_parts_round_to_what_the_whole_rounds_to(position: float, step: float, num_new: int) -> None:
    """round((w - s / 2) / 2) + round((w + s / 2) / 2) = round(w), however often (Zhao et al. 2019, section 3.3); ties aside."""
    if abs(position % 1 - 0.5) < 1e-3:
        return
    weight = torch.tensor([[position * step]], dtype=torch.float64)
    parts, _ = split(weight, 1, num_new, torch.tensor(step, dtype=torch.float64))
    assert float(parts.sum()) == pytest.approx(position * step, rel=1e-9, abs=1e-12)
    assert float((parts / step).round().sum()) == round(position)


def test_zeros_stay_zeros() -> None:
    weight = torch.tensor([[8.0, 1.0], [0.0, 1.0]])
    widened, _ = split(weight, 1, 1, torch.tensor(1.0))
    assert widened.tolist() == [[3.75, 1.0, 4.25], [0.0, 1.0, 0.0]]


def with_outlier() -> tuple[nn.Module, Tensor]:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 1)).eval()
    with torch.no_grad():
        model[2].weight[3, 5, 1, 1] = 2.0  # the others are within 0.12
    return model, torch.randn(16, 3, 8, 8)


def test_the_grid_becomes_finer() -> None:
    model, x = with_outlier()
    errors = []
    for steps in ([], [{"split_outliers": {"range": "min_max"}}]):
        calibrate = {"calibrate": {"weights": "min_max", "activations": "min_max"}}
        recipe = Recipe.parse(
            {
                "name": "mine",
                "scheme": {"weights": {"type": "int6", "per_channel": False}, "activations": {"type": "float"}},
                "steps": [*steps, "place_quantizers", calibrate, "round"],
            }
        )
        result = hs.quantize(model, x, recipe)
        errors.append(float((run(result.model, (x,)) - run(result.float_model, (x,))).square().mean()))
    assert errors[1] < 0.5 * errors[0]


def test_only_layers_on_a_grid_and_not_the_first_one() -> None:
    model, x = with_outlier()
    graph, notes = split_graph(capture(model, (x,)), expand_ratio=0.25)
    assert [attribute(graph, layer.weight).shape[1] for layer in weighted_layers(graph)] == [3, 10, 10]
    assert notes == ["Split 4 input channels of 2 layers."]
    in_float = Scheme(last_layer=LayerTypes(weights="float"))
    graph, _ = split_graph(capture(model, (x,)), in_float, expand_ratio=0.25)
    assert [attribute(graph, layer.weight).shape[1] for layer in weighted_layers(graph)] == [3, 10, 8]


@pytest.mark.parametrize("name", ["shared", "depthwise"])
def test_shared_and_depthwise_layers_are_left_alone(name: str) -> None:
    graph, _ = split_graph(zoo.captured(name), expand_ratio=0.5)
    weight = attribute(graph, weighted_layers(graph)[1].weight)
    assert weight.shape == attribute(zoo.captured(name), weighted_layers(zoo.captured(name))[1].weight).shape


def test_the_repeated_channels_share_the_grid_of_their_source() -> None:
    model, x = with_outlier()
    graph, _ = split_graph(capture(model, (x,)))
    graph = PlaceQuantizers().apply(graph, zoo.context())
    layer = weighted_layers(graph)[1]
    repeated = layer.input.args[0]
    assert isinstance(repeated, torch.fx.Node) and "index_select" in str(repeated.target)
    assert quantizer_of(layer.input) is quantizer_of(repeated.args[0]) is not None


@pytest.mark.parametrize(
    ("name", "activations"),
    [("residual", "uint8"), ("residual", "float"), ("linear_bn", "uint8"), ("transposed", "float"), ("attention", "uint8")],
)
def test_it_exports(name: str, activations: str, tmp_path: Path) -> None:
    """Verified against the simulation, code by code."""
    recipe = Recipe.load("ocs-w4").with_types(weights="int8", activations=activations)
    result = hs.quantize(zoo.ZOO[name].model(), zoo.calibration_of(name), recipe)
    check = export_onnx(result.model, tmp_path / "network.onnx", result.samples)
    assert check.max_output_difference <= 0.05  # a code that falls the other way here and there
    assert "Gather" in {node.op_type for node in onnx.load(tmp_path / "network.onnx").graph.node}


def test_it_comes_before_the_quantizers() -> None:
    context = zoo.context()
    graph = PlaceQuantizers().apply(zoo.captured("bias_free"), context)
    with pytest.raises(RecipeError, match="'split_outliers' rewrites the float network"):
        SplitOutliers().apply(graph, context)


def test_options() -> None:
    with pytest.raises(RecipeError, match="Unknown range 'mes'"):
        SplitOutliers(range="mes")
    assert SplitOutliers().full_spec() == {"split_outliers": {"expand_ratio": 0.05, "range": {"mse": {"num_candidates": 32}}}}
