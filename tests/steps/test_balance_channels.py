"""Channels are scaled so that rounding disturbs the outputs less, and the network computes what it computed."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.fx import GraphModule

import halfstep as hs
import zoo
from halfstep.errors import CalibrationError, RecipeError
from halfstep.graph.capture import capture
from halfstep.graph.edit import tensor_named
from halfstep.graph.run import run
from halfstep.grid import Grid
from halfstep.steps import BalanceChannels, Context, PlaceQuantizers
from halfstep.steps.channel_noise import TensorNoise, WeightNoise, quietest_factors

SIZE = 8
UINT8, INT8 = Grid(8, False, False), Grid(8, True, channel_axis=0)


class Uneven(nn.Module):
    """A residual block whose channels differ by factors of up to 1000, as in networks trained with batch norms that were folded."""

    def __init__(self, clip: nn.Module) -> None:
        super().__init__()
        self.stem, self.depthwise = nn.Conv2d(3, SIZE, 3), nn.Conv2d(SIZE, SIZE, 3, padding=1, groups=SIZE)
        self.project, self.classifier, self.clip = nn.Conv2d(SIZE, SIZE, 1), nn.Linear(SIZE, 10), clip
        uneven = torch.logspace(-2.0, 1.0, SIZE)
        with torch.no_grad():
            self.stem.weight.mul_(uneven.view(-1, 1, 1, 1))
            self.depthwise.weight.div_(uneven.view(-1, 1, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        x = self.clip(self.stem(x))
        x = x + self.project(self.clip(self.depthwise(x)))
        found: Tensor = self.classifier(x.mean((2, 3)))
        return found


def network(clip: nn.Module | None = None) -> nn.Module:
    torch.manual_seed(4)
    return Uneven(clip or nn.ReLU()).eval()


def balanced(model: nn.Module, x: Tensor, **options: object) -> tuple[GraphModule, Context]:
    shared = zoo.context(x)
    return BalanceChannels.from_options(options).apply(capture(model, (x,)), shared), shared


@pytest.mark.parametrize("clip", [nn.ReLU(), nn.ReLU6(), nn.Identity()])
def test_the_network_computes_what_it_computed(clip: nn.Module, generator: torch.Generator) -> None:
    """On the calibration data: float32 leaves 1e-5 of the largest output after factors of up to 1000."""
    model, x = network(clip), 4 * torch.randn(24, 3, 8, 8, generator=generator)
    graph, _ = balanced(model, x)
    with torch.no_grad():
        expected = model(x)
    assert float((run(graph, (x,)) - expected).abs().max()) < 1e-5 * float(expected.abs().max())
    assert not torch.equal(tensor_named(graph, "stem.weight"), model.stem.weight)  # type: ignore[union-attr]


def test_a_channel_that_is_clipped_keeps_its_scale(generator: torch.Generator) -> None:
    model, x = network(nn.ReLU6()), 4 * torch.randn(24, 3, 8, 8, generator=generator)
    graph, _ = balanced(model, x)
    with torch.no_grad():
        largest = torch.relu(model.stem(x)).amax((0, 2, 3))  # type: ignore[operator]
    factor = (tensor_named(graph, "stem.bias") / model.stem.bias).detach()  # type: ignore[operator]
    assert bool((largest > 6).any()) and bool((largest < 3).any())
    torch.testing.assert_close(factor[largest > 6], torch.ones(int((largest > 6).sum())))
    assert bool((factor * largest <= 6.001)[largest < 6].all()) and bool((factor > 1.2).any())


@pytest.mark.parametrize("recipe", ["int8", "int8-per-tensor"])
def test_rounding_disturbs_the_outputs_less(recipe: str, generator: torch.Generator) -> None:
    """Half of the error's energy is left at most, measured on inputs that nothing was chosen on; and the export is the simulation."""
    model, x, other = network(), torch.randn(64, 3, 8, 8, generator=generator), torch.randn(64, 3, 8, 8, generator=generator)
    shipped = hs.Recipe.load(recipe)
    rest = tuple(step for step in shipped.steps if step != "balance_channels")
    with torch.no_grad():
        exact, errors = model(other), {}
        for steps in (rest, (rest[0], "balance_channels", *rest[1:])):
            result = hs.quantize(model, x, shipped.model_copy(update={"steps": steps}))
            errors[len(steps)] = float((result.model(other) - exact).square().mean())
    assert errors[len(rest) + 1] < 0.5 * errors[len(rest)]


@pytest.mark.parametrize("layer", ["stem", "depthwise", "project", "classifier"])
def test_a_layer_of_zeros_under_one_scale(layer: str, generator: torch.Generator) -> None:
    model, x = network(), torch.randn(24, 3, 8, 8, generator=generator)
    with torch.no_grad():
        model.get_submodule(layer).weight.zero_()  # type: ignore[operator, union-attr]
    result = hs.quantize(model, x, recipe="int8-per-tensor-balanced")
    with torch.no_grad():
        assert bool(torch.isfinite(result.model(x)).all())
    assert all(bool(torch.isfinite(part).all()) for part in result.float_model.parameters())


def test_one_tensor_gets_even_channels() -> None:
    """Without weights behind it and with slopes h alike, s_i ~ 1 / m_i has the least noise, sum of m_i² / C of the largest's."""
    largest = torch.tensor([1.0, 2.0, 4.0, 8.0], dtype=torch.float64)
    term = TensorNoise(UINT8, torch.arange(4), torch.zeros(4, dtype=torch.float64), largest, torch.ones(4, dtype=torch.float64))
    found, before, after = quietest_factors([term], torch.full((4,), 9.0), torch.zeros(4, dtype=torch.bool), 400, 0.05)
    torch.testing.assert_close(
        found - found[3], (8 / largest).log(), rtol=0, atol=0.3
    )  # the norm is softer than a maximum: up to 3^(1/16) each
    assert after / before == pytest.approx(float(largest.square().sum()) / (4 * 64), rel=0.3)


def test_columns_of_weights_by_hand() -> None:
    """Two rows, two inputs: the noise of a row is its largest |w| squared times the slopes, s changes both."""
    largest = torch.tensor([[[2.0, 1.0], [1.0, 3.0]]])
    slopes = torch.tensor([[[5.0, 7.0], [11.0, 13.0]]], dtype=torch.float64)
    noise = WeightNoise(INT8, largest, slopes, torch.tensor([0, 1]), torch.tensor([2, 3])).function()
    factors = torch.tensor([2.0, 0.5, 1.0, 9.0], dtype=torch.float64)  # a factor of an output does not matter
    rows = max(2 / 2, 1 / 0.5) ** 2 * (5 * 4 + 7 / 4) + max(1 / 2, 3 / 0.5) ** 2 * (11 * 4 + 13 / 4)
    assert float(noise(factors.log())) == pytest.approx(4 * rows / (12 * 255**2), rel=1e-5)


def test_one_scale_for_all_rows_by_hand() -> None:
    largest, slopes = torch.tensor([[[2.0], [1.0]]]), torch.tensor([[[5.0], [7.0]]], dtype=torch.float64)
    noise = WeightNoise(INT8.per_tensor(), largest, slopes, None, torch.tensor([0, 1])).function()
    factors = torch.tensor([1.0, 16.0], dtype=torch.float64)
    expected = 4 * 16**2 * (5 + 7 / 16**2) / (12 * 255**2)  # the larger is 16 against 2: the norm of order 16 is that to 8^-16
    assert float(noise(factors.log())) == pytest.approx(expected, rel=1e-6)


def test_nothing_to_scale(generator: torch.Generator) -> None:
    x = torch.randn(8, 3, generator=generator)
    graph, shared = balanced(nn.Linear(3, 4).eval(), x)
    assert "No channels were balanced" in shared.notes[0] and len(list(graph.parameters())) == 2


def test_too_late_and_without_data() -> None:
    model, x = network(), torch.zeros(4, 3, 8, 8)
    with pytest.raises(CalibrationError, match="at least one batch"):
        BalanceChannels().apply(capture(model, (x,)), zoo.context(x[:0]))
    with pytest.raises(RecipeError, match="put it before 'place_quantizers'"):
        BalanceChannels().apply(PlaceQuantizers().apply(capture(model, (x,)), zoo.context(x)), zoo.context(x))
    with pytest.raises(CalibrationError, match="NaN or infinite"):
        balanced(model, x / 0)
