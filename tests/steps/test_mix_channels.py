"""Channels are mixed so that rounding disturbs the outputs less, and the network computes what it computed."""

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
from halfstep.graph.output_slopes import ChannelMoments
from halfstep.graph.run import run
from halfstep.steps import Context, MixChannels, PlaceQuantizers
from halfstep.steps.mix_channels import MixtureNoise, quietest_matrix

SIZE = 16


class Stream(nn.Module):
    """A linear stream that some positions fill along one direction across all channels, which the outputs do not feel."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.expand, self.project = nn.Conv2d(3, SIZE, 3), nn.Conv2d(SIZE, 2 * SIZE, 1), nn.Conv2d(2 * SIZE, SIZE, 1)
        self.classifier = nn.Conv2d(SIZE, 10, 1)
        with torch.no_grad():
            direction = nn.functional.normalize(torch.randn(SIZE), dim=0)
            self.stem.weight[:, 0].add_(8 * direction.view(-1, 1, 1))
            for reader in (self.expand, self.classifier):
                reader.weight.sub_(0.9 * torch.einsum("oixy,i,j->ojxy", reader.weight, direction, direction))

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = x + self.project(torch.relu(self.expand(x)))
        found: Tensor = self.classifier(nn.functional.avg_pool2d(x, 2)).flatten(2).tanh().mean(2)
        return found


def network() -> nn.Module:
    torch.manual_seed(4)
    return Stream().eval()


def mixed(model: nn.Module, x: Tensor, **options: object) -> tuple[GraphModule, Context]:
    shared = zoo.context(x)
    return MixChannels.from_options(options).apply(capture(model, (x,)), shared), shared


def test_the_network_computes_what_it_computed(generator: torch.Generator) -> None:
    """On other data than those it was mixed by: float32 leaves 1e-5 of the largest output."""
    model, x, other = network(), torch.randn(24, 3, 8, 8, generator=generator), torch.randn(24, 3, 8, 8, generator=generator)
    graph, shared = mixed(model, x)
    with torch.no_grad():
        expected = model(other)
    assert float((run(graph, (other,)) - expected).abs().max()) < 1e-5 * float(expected.abs().max())
    assert not torch.equal(tensor_named(graph, "stem.weight"), model.stem.weight)  # type: ignore[union-attr]
    assert shared.notes[0].startswith(f"Mixed the {SIZE} channels that stem writes: the noise")


@pytest.mark.parametrize("recipe", ["int8", "int8-per-tensor"])
def test_rounding_disturbs_the_outputs_less(recipe: str, generator: torch.Generator) -> None:
    """Half of the error's energy is left at most, measured on inputs that nothing was chosen on."""
    model, x, other = network(), torch.randn(64, 3, 8, 8, generator=generator), torch.randn(64, 3, 8, 8, generator=generator)
    shipped = hs.Recipe.load(recipe)
    with torch.no_grad():
        exact, errors = model(other), []
        for steps in (shipped.steps, (shipped.steps[0], "mix_channels", *shipped.steps[1:])):
            result = hs.quantize(model, x, shipped.model_copy(update={"steps": steps}))
            errors.append(float((result.model(other) - exact).square().mean()))
    assert errors[1] < 0.5 * errors[0]


def test_the_same_noise_by_hand() -> None:
    """Rows (3, 4) and (0, 0), H = diag(1, 2) and A = diag(2, 1): e² = (mean of 6^8, 4^8, 0, 0)^(1/4), tr H (AᵀA)^-1 = 1/4 + 2."""
    moments = ChannelMoments(torch.tensor([[3.0, 4.0], [0.0, 0.0]]), torch.diag(torch.tensor([1.0, 2.0], dtype=torch.float64)))
    matrix = torch.diag(torch.tensor([2.0, 1.0]))
    noise = float(MixtureNoise.of(moments, 0.5)(matrix, torch.linalg.inv(matrix)))
    ridge = 1e-3 * 1.5
    assert noise == pytest.approx(0.5 * ((6**8 + 4**8) / 4) ** 0.25 * ((1 + ridge) / 4 + 2 + ridge), rel=1e-5)


def test_an_outlying_direction_is_spread(generator: torch.Generator) -> None:
    """One position in a hundred is 30 times as large, along one axis: all 16 channels share it then, a fourth of the range each."""
    rows = torch.randn(2000, SIZE, generator=generator)
    rows[::100, 3] += 30
    slopes = torch.eye(SIZE, dtype=torch.float64)
    found, before, after = quietest_matrix([MixtureNoise.of(ChannelMoments(rows, slopes), 1.0)], 300, 0.06)
    assert after < 0.2 * before
    assert float((rows.double() @ found.T).abs().max() / found.square().mean().sqrt()) < 0.6 * float(rows.abs().max()) * SIZE**0.5


def test_even_channels_stay_about_as_they_are(generator: torch.Generator) -> None:
    """Nothing is worth much where values and slopes are alike in every direction; and a rate that is too high does no harm."""
    noise = MixtureNoise.of(ChannelMoments(torch.randn(4000, 4, generator=generator), torch.eye(4, dtype=torch.float64)), 1.0)
    _, before, after = quietest_matrix([noise], 100, 0.06)
    assert 0.9 * before < after <= before
    found, before, after = quietest_matrix([noise], 20, 1e30)
    assert torch.equal(found, torch.eye(4, dtype=torch.float64)) and after == before


def test_nothing_to_mix(generator: torch.Generator) -> None:
    x = torch.randn(8, 3, generator=generator)
    graph, shared = mixed(nn.Linear(3, 4).eval(), x)
    assert "No channels were mixed" in shared.notes[0] and len(list(graph.parameters())) == 2


def test_outputs_without_slopes(generator: torch.Generator) -> None:
    class Label(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 5))

        def forward(self, x: Tensor) -> Tensor:
            return self.layers(x).argmax(1)

    _, shared = mixed(Label().eval(), torch.randn(8, 3, generator=generator))
    assert shared.notes == ["No channels were mixed: the network's outputs have no slopes."]


def test_too_late_and_without_data() -> None:
    model, x = network(), torch.zeros(4, 3, 8, 8)
    with pytest.raises(CalibrationError, match="at least one batch"):
        MixChannels().apply(capture(model, (x,)), zoo.context(x[:0]))
    with pytest.raises(RecipeError, match="put it before 'place_quantizers'"):
        MixChannels().apply(PlaceQuantizers().apply(capture(model, (x,)), zoo.context(x)), zoo.context(x))
    with pytest.raises(CalibrationError, match="NaN or infinite"):
        mixed(model, x / 0)
