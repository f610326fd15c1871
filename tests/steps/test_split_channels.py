"""Splitting channels: copies lie on a grid as many times finer, the budget holds, the outputs are disturbed less; and it exports."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.fx import GraphModule

import halfstep as hs
import zoo
from halfstep.errors import CalibrationError, RecipeError
from halfstep.export.onnx_qdq import export_onnx
from halfstep.graph.capture import capture
from halfstep.graph.check import check
from halfstep.graph.copies import Work, find_copyable
from halfstep.graph.edit import attribute
from halfstep.graph.operators import weighted_layers
from halfstep.graph.run import run
from halfstep.graph.ties import find_ties
from halfstep.steps import Context, PlaceQuantizers, SplitChannels
from halfstep.steps.split_channels import cheapest_copies, shifts


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, bias=False),
        nn.ReLU(),
        nn.Conv2d(8, 8, 3, padding=1, groups=8),
        nn.ReLU6(),
        nn.Conv2d(8, 16, 1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(144, 10),
    ).eval()


def split_graph(model: nn.Module, x: Tensor, **options: float) -> tuple[GraphModule, Context]:
    shared = zoo.context(x)
    graph = SplitChannels(**options).apply(capture(model, (x,)), shared)  # type: ignore[arg-type]
    check(graph)
    return graph, shared


@given(st.floats(-40, 40), st.integers(1, 8), st.floats(0.01, 10))
def test_copies_round_to_a_finer_grid(position: float, count: int, step: float) -> None:
    """Hermite's identity: sum over j of round(x + t_j) = round(k x), ties aside."""
    if abs(count * position % 1 - 0.5) < 1e-3:
        return
    t = shifts(torch.tensor([count]), torch.tensor([step], dtype=torch.float64))[0]
    assert float(t.sum()) == pytest.approx(0, abs=1e-9)
    assert float((position + t / step).round().sum()) == round(count * position)


def test_shifts_by_hand() -> None:
    found = shifts(torch.tensor([1, 2, 3]), torch.tensor([4.0, 4.0, 3.0], dtype=torch.float64))
    assert found[0, 0] == 0 and found[1, :2].tolist() == [-1.0, 1.0]
    assert torch.allclose(found[2], torch.tensor([-1.0, 0.0, 1.0], dtype=torch.float64))


@pytest.mark.parametrize(("share", "multiple"), [(0.05, 1), (0.3, 1), (0.3, 4), (1.0, 8)])
def test_the_budget_holds(share: float, multiple: int, generator: torch.Generator) -> None:
    """And every layer grows by whole packs."""
    model, x = network(), torch.randn(16, 3, 8, 8, generator=generator)
    graphs = capture(model, (x,)), split_graph(model, x, budget=share, multiple=multiple)[0]
    before, after = (
        Work(graph, ties).total(torch.ones_like(ties.is_bound, dtype=torch.int64)) for graph in graphs for ties in [find_ties(graph)]
    )
    assert before < after <= (1 + share) * before
    sizes = ([len(attribute(graph, layer.weight)) for layer in weighted_layers(graph)] for graph in graphs)
    assert all((wide - narrow) % multiple == 0 for narrow, wide in zip(*sizes, strict=True))


def test_the_noisiest_for_their_price_come_first() -> None:
    """Of two channels of one price, a third of all work, the one that is felt 8 times as much: 3/4 of 8, 5/36 of 8, then 3/4 of 1."""
    graph = capture(nn.Sequential(nn.Conv2d(1, 2, 1), nn.ReLU(), nn.Conv2d(2, 1, 1)).eval(), (torch.zeros(2, 1, 4, 4),))
    ties = find_ties(graph)
    copyable, work = find_copyable(ties), Work(graph, ties)
    noise = torch.tensor([1.0, 8.0, 99.0], dtype=torch.float64)  # the last is the output's, which stays single
    bought = [cheapest_copies(noise, copyable, work, extra, 3, 1).tolist() for extra in (0.3, 0.5, 0.8, 1.2, 1.5, 9.0)]
    assert bought == [[1, 1, 1], [1, 2, 1], [1, 3, 1], [2, 3, 1], [3, 3, 1], [3, 3, 1]]
    in_pairs = [cheapest_copies(noise, copyable, work, extra, 3, 2).tolist() for extra in (0.5, 0.8, 1.5)]
    assert in_pairs == [[1, 1, 1], [1, 3, 1], [3, 3, 1]]


def test_rounding_disturbs_the_outputs_less(generator: torch.Generator) -> None:
    """Where the inputs are whole numbers, which an 8-bit grid holds, nothing is clipped, and every channel may have three copies."""
    model, x = network(), torch.randint(-128, 128, (32, 3, 8, 8), generator=generator).float() / 64
    shipped = hs.Recipe.load("int8").with_types(weights="int16")
    split, calibrate = {"split_channels": {"budget": 3, "range": "min_max"}}, {"calibrate": {"activations": "min_max"}}
    with torch.no_grad():
        exact, errors = model(x), []
        for steps in (["fold_batch_norm"], ["fold_batch_norm", split]):
            recipe = shipped.model_copy(update={"steps": (*steps, "place_quantizers", calibrate, "round")})
            result = hs.quantize(model, x, recipe)
            errors.append(float((result.model(x) - exact).square().mean()))
    assert errors[1] < 0.2 * errors[0]


def test_the_network_hardly_moves(generator: torch.Generator) -> None:
    """Where a ReLU bends, and at zeros around a depthwise layer: by less than 8 bits of rounding would."""
    model, x = network(), torch.randn(32, 3, 8, 8, generator=generator)
    graph, shared = split_graph(model, x, budget=1.0)
    assert zoo.relative(run(graph, (x,)), run(capture(model, (x,)), (x,))) < 5e-3
    assert shared.notes[0].startswith("Split ") and "more work" in shared.notes[0]


def test_depthwise_channels_are_split_with_their_source(generator: torch.Generator) -> None:
    graph, _ = split_graph(network(), torch.randn(8, 3, 8, 8, generator=generator), budget=1.5)
    first, depthwise, pointwise, _ = weighted_layers(graph)
    sizes = [attribute(graph, layer.weight).shape for layer in (first, depthwise, pointwise)]
    assert sizes[0][0] == sizes[1][0] == sizes[2][1] == depthwise.groups > 8


@pytest.mark.parametrize("name", ["depthwise", "concat", "transposed", "static_batch", "ends_in_average"])
def test_it_exports(name: str, tmp_path: Path) -> None:
    """Verified against the simulation, code by code."""
    recipe = hs.Recipe.load("int8")
    recipe = recipe.model_copy(update={"steps": (recipe.steps[0], {"split_channels": {"budget": 0.5}}, *recipe.steps[1:])})
    result = hs.quantize(zoo.ZOO[name].model(), zoo.calibration_of(name), recipe)
    checked = export_onnx(result.model, tmp_path / "network.onnx", result.samples)
    assert checked.max_output_difference <= 0.05  # a code that falls the other way here and there


def test_nothing_to_split(generator: torch.Generator) -> None:
    graph, shared = split_graph(nn.Linear(3, 4).eval(), torch.randn(8, 3, generator=generator))
    assert "No channels were split" in shared.notes[0] and attribute(graph, weighted_layers(graph)[0].weight).shape == (4, 3)


def test_outputs_without_slopes(generator: torch.Generator) -> None:
    class Label(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 5))

        def forward(self, x: Tensor) -> Tensor:
            return self.layers(x).argmax(1)

    _, shared = split_graph(Label().eval(), torch.randn(8, 3, generator=generator))
    assert shared.notes == ["No channels were split: the network's outputs have no slopes."]


def test_too_late_and_without_data() -> None:
    model, x = network(), torch.zeros(4, 3, 8, 8)
    with pytest.raises(CalibrationError, match="at least one batch"):
        SplitChannels().apply(capture(model, (x,)), zoo.context(x[:0]))
    with pytest.raises(RecipeError, match="put it before 'place_quantizers'"):
        SplitChannels().apply(PlaceQuantizers().apply(capture(model, (x,)), zoo.context(x)), zoo.context(x))
    with pytest.raises(CalibrationError, match="NaN or infinite"):
        split_graph(model, x / 0)


def test_options() -> None:
    with pytest.raises(RecipeError, match="Unknown range 'mes'"):
        SplitChannels(range="mes")
    written = {
        "budget": 0.1,
        "most_copies": 3,
        "multiple": 8,
        "samples": 128,
        "slope_samples": 32,
        "range": {"mse": {"num_candidates": 32}},
    }
    assert SplitChannels().full_spec() == {"split_channels": written}
