"""Bias correction: the mean of every output is that of the float network; the analytic form against its closed form and against data."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn
from torch.fx import GraphModule

import halfstep as hs
import zoo
from halfstep.errors import RecipeError
from halfstep.graph.capture import capture
from halfstep.graph.chains import Place
from halfstep.graph.edges import behind_quantizer
from halfstep.graph.edit import attribute
from halfstep.graph.expectation import Expectation, _of_clip, expected_inputs
from halfstep.graph.operators import weighted_layers
from halfstep.graph.run import observe
from halfstep.recipes import Recipe
from halfstep.steps import CorrectBias, FoldBatchNorm, Scheme
from halfstep.steps.scheme import ActivationScheme, WeightScheme

WEIGHTS_ONLY = Scheme(
    weights=WeightScheme(type="int3", per_channel=False), activations=ActivationScheme(type="float"),
)  # fmt: skip


def means(graph: GraphModule, inputs: list[tuple[Tensor, ...]]) -> dict[str, Tensor]:
    """Of every layer's output, over samples and positions."""
    layers = {layer.node for layer in weighted_layers(graph)}
    found: dict[str, list[Tensor]] = {}

    def see(node: torch.fx.Node, tensor: Tensor) -> Tensor:
        channels = tensor if tensor.ndim == 2 else tensor.movedim(1, -1)
        found.setdefault(str(node.meta["name"]), []).append(channels.double().flatten(0, -2))
        return tensor

    for batch in inputs:
        observe(graph, batch, layers, see)
    return {name: torch.cat(parts).mean(0) for name, parts in found.items()}


@pytest.mark.parametrize("name", ["conv_bn_relu", "residual", "depthwise", "transposed", "linear_bn", "concat", "conv1d", "two_inputs"])
def test_every_output_has_the_mean_of_the_float_network(name: str) -> None:
    inputs = [zoo.ZOO[name].inputs(5, seed) for seed in range(3)]
    graph, context = zoo.rounded(zoo.captured(name), inputs, WEIGHTS_ONLY)
    assert context.reference is not None
    wanted, before = means(context.reference, inputs), means(graph, inputs)
    graph = CorrectBias().apply(graph, context)
    after = means(graph, inputs)
    assert context.notes == []
    for layer in wanted:
        # Biases and outputs are float32, of sums of some 10^2 products of size 1: 10 * 2^-24, a few times over behind one another
        assert torch.allclose(after[layer], wanted[layer], atol=1e-5), layer
    assert max(float((before[layer] - wanted[layer]).abs().max()) for layer in wanted) > 1e-2


def test_doing_it_twice_changes_nothing() -> None:
    """The float bias is what is corrected, not the bias that is there."""
    inputs = [zoo.ZOO["residual"].inputs(8)]
    graph, context = zoo.rounded(zoo.captured("residual"), inputs, WEIGHTS_ONLY)
    CorrectBias().apply(graph, context)
    once = {layer.name: attribute(graph, layer.bias).clone() for layer in weighted_layers(graph)}  # type: ignore[arg-type]
    CorrectBias().apply(graph, context)
    for layer in weighted_layers(graph):
        assert torch.allclose(attribute(graph, layer.bias), once[layer.name], atol=1e-6)  # type: ignore[arg-type]


def test_it_does_not_depend_on_the_batches() -> None:
    x = zoo.ZOO["residual"].inputs(12)
    found = []
    for size in (12, 5):
        graph, context = zoo.rounded(zoo.captured("residual"), [(part,) for part in x[0].split(size)], WEIGHTS_ONLY)
        CorrectBias().apply(graph, context)
        found.append(torch.cat([attribute(graph, layer.bias) for layer in weighted_layers(graph)]))  # type: ignore[arg-type]
    assert torch.allclose(*found, atol=1e-6)


def test_behind_quantized_activations() -> None:
    """The whole recipe: biases go through their own grid afterwards, at most half of an accumulator's step from the value set."""
    recipe = Recipe.load("int8-per-tensor").with_types(weights="int4", activations="uint4")
    corrected = recipe.model_copy(update={"steps": (*recipe.steps, "correct_bias")})
    errors = []
    inputs = [zoo.ZOO["residual"].inputs(zoo.NUM_SAMPLES)]
    for chosen in (recipe, corrected):
        result = hs.quantize(zoo.ZOO["residual"].model(), zoo.calibration_of("residual"), chosen)
        wanted, found = means(result.float_model, inputs), means(result.model, inputs)
        errors.append(max(float((found[name] - wanted[name]).abs().max()) for name in wanted))
    assert errors[1] < 0.01 < 0.03 < errors[0]


def test_a_robust_mean_is_that_of_the_usual_positions(generator: torch.Generator) -> None:
    """One position in a hundred is off by two hundred times as much the other way: it turns the plain mean round."""
    x = 1 + 0.1 * torch.randn(20, 3, 10, 10, generator=generator)
    x[:, :, 4, 4] *= -200
    usual = x[:, :, :4]
    losses = {}
    for robust in (False, True):
        torch.manual_seed(0)
        graph, context = zoo.rounded(capture(nn.Sequential(nn.Conv2d(3, 8, 1)), (x[:4],)), [(x,)], WEIGHTS_ONLY)
        assert context.reference is not None
        before = means(graph, [(usual,)])["0"]
        CorrectBias(robust=robust).apply(graph, context)
        wanted = means(context.reference, [(usual,)])["0"]
        losses[robust] = float((means(graph, [(usual,)])["0"] - wanted).norm() / (before - wanted).norm())
    assert losses[True] < 0.05 and losses[False] > 1.5


def test_a_robust_mean_of_equal_errors_and_of_none() -> None:
    """It is the plain mean, and 0."""
    x = torch.ones(4, 3, 5, 5)
    for inputs in (x, 0 * x):
        graph, context = zoo.rounded(capture(nn.Sequential(nn.Conv2d(3, 8, 1)), (x,)), [(inputs,)], WEIGHTS_ONLY)
        assert context.reference is not None
        CorrectBias(robust=True).apply(graph, context)
        assert torch.allclose(graph(inputs), context.reference(inputs), atol=1e-6)


@pytest.mark.parametrize(("low", "high"), [(0.0, math.inf), (0.0, 6.0), (-1.0, 0.5), (-math.inf, 2.0), (-math.inf, math.inf)])
def test_the_mean_of_a_clipped_normal(low: float, high: float, generator: torch.Generator) -> None:
    """Against a million draws: standard error of the mean below 10^-3 a unit of deviation, of the variance 2 * 10^-3."""
    for mean, std in ((0.0, 1.0), (2.0, 3.0), (-2.0, 1.0), (5.5, 0.5)):
        x = (mean + std * torch.randn(1_000_000, generator=generator, dtype=torch.float64)).clamp(low, high)
        made = Expectation(torch.tensor([mean], dtype=torch.float64), torch.tensor([std**2], dtype=torch.float64), Place(1, 1))
        found = _of_clip(made, low, high)
        assert float(found.mean) == pytest.approx(float(x.mean()), abs=5e-3 * std)
        assert float(found.variance) == pytest.approx(float(x.var()), abs=1e-2 * std**2)


def test_a_relu_by_the_papers_formula() -> None:
    """E[ReLU(x)] = gamma f(-beta / gamma) + beta (1 - F(-beta / gamma)); at beta = 0 that is gamma / sqrt(2 pi)."""
    made = Expectation(torch.zeros(1, dtype=torch.float64), torch.full((1,), 4.0, dtype=torch.float64), Place(1, 1))
    assert float(_of_clip(made, 0.0, math.inf).mean) == pytest.approx(2 / math.sqrt(2 * math.pi), rel=1e-12)


def test_a_constant_channel() -> None:
    made = Expectation(torch.tensor([-1.0, 0.0, 2.0]).double(), torch.zeros(3).double(), Place(1, 1))
    found = _of_clip(made, 0.0, 6.0)
    assert found.mean.tolist() == pytest.approx([0.0, 0.0, 2.0], abs=1e-300) and float(found.variance.max()) <= 1e-12


def normalized(model: nn.Module, x: Tensor) -> nn.Module:
    """``model`` with batch norms whose statistics are those of ``x``, as after training on it."""
    for norm in model.modules():
        if isinstance(norm, nn.modules.batchnorm._BatchNorm):
            norm.momentum, norm.eps = 1.0, 1e-8
            with torch.no_grad():
                norm.weight.uniform_(0.5, 1.5)
                norm.bias.normal_(0, 0.5)
    with torch.no_grad():
        model.train()(x)
    return model.eval()


class _Network(nn.Module):
    """A residual block, a depthwise layer behind a ReLU6, a concat, an average."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, 8, 1), nn.BatchNorm2d(8)
        self.conv2, self.bn2 = nn.Conv2d(8, 8, 3, groups=8), nn.BatchNorm2d(8)
        self.conv3, self.bn3 = nn.Conv2d(8, 8, 1), nn.BatchNorm2d(8)
        self.conv4, self.fc = nn.Conv2d(16, 6, 1), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x = torch.relu(self.bn1(self.conv1(x)))
        x = nn.functional.relu6(self.bn2(self.conv2(x)))
        y = self.bn3(self.conv3(x))
        return self.conv4(torch.cat([x, y], 1)), self.fc((x + y).mean((2, 3)))


def test_expected_inputs_against_data() -> None:
    torch.manual_seed(3)
    x = torch.randn(256, 3, 8, 8)
    model = normalized(_Network(), x)
    graph = FoldBatchNorm().apply(capture(model, (x[:4],)), zoo.context())
    found = expected_inputs(graph, graph.meta["batch_norms"])
    assert set(found) == {"conv2", "conv3", "conv4", "fc"}
    inputs = {layer.input: layer.name for layer in weighted_layers(graph)}
    seen: dict[str, Tensor] = {}

    def see(node: torch.fx.Node, tensor: Tensor) -> Tensor:
        seen[inputs[node]] = tensor.movedim(1, -1).flatten(0, -2).mean(0).double()
        return tensor

    observe(graph, (x,), set(inputs), see)
    for name, mean in found.items():
        # outputs of a convolution of normal inputs are normal; those of a depthwise one behind a ReLU are skewed, by a tenth of their
        # deviation of about 1 here
        assert torch.allclose(mean, seen[name], atol=0.01 if name == "conv2" else 0.15), name


def test_analytic_is_close_to_empirical() -> None:
    torch.manual_seed(3)
    x = torch.randn(256, 3, 8, 8)
    errors = {}
    for method in ("none", "analytic"):
        graph, context = zoo.rounded(capture(normalized(_Network(), x), (x[:4],)), [(x,)], WEIGHTS_ONLY)
        assert context.reference is not None
        if method == "analytic":
            CorrectBias(method="analytic").apply(graph, context)
            assert context.notes == ["The bias of 1 layers was not corrected: no batch norm tells the mean of their input."]
        wanted, found = means(context.reference, [(x,)]), means(graph, [(x,)])
        errors[method] = sum(float((found[name] - wanted[name]).square().sum()) for name in wanted if name != "conv1")
    assert errors["analytic"] < 0.3 * errors["none"]


def test_layers_without_a_bias_of_their_own_are_counted() -> None:
    for name, note in (("bias_free", "The bias of 2 layers"), ("shared", "The bias of 4 layers")):
        inputs = [zoo.ZOO[name].inputs(4)]
        graph, context = zoo.rounded(zoo.captured(name), inputs, WEIGHTS_ONLY)
        CorrectBias().apply(graph, context)
        assert context.notes == [f"{note} was not corrected: they have none of their own."]


def test_it_comes_behind_the_rounding() -> None:
    context = zoo.context()
    with pytest.raises(RecipeError, match="'correct_bias' works on quantized weights: put it behind 'round'"):
        CorrectBias().apply(zoo.captured("residual"), context)


def test_a_network_left_in_float_is_told_from_a_wrong_order() -> None:
    recipe = hs.Recipe.load("dfq").with_types(weights="float")
    with pytest.raises(RecipeError, match="leaves every layer's weights in float: give one of them a grid, or leave the step out"):
        hs.quantize(zoo.ZOO["residual"].model(), zoo.ZOO["residual"].inputs(4), recipe)


def test_the_weights_stay() -> None:
    inputs = [zoo.ZOO["residual"].inputs(4)]
    graph, context = zoo.rounded(zoo.captured("residual"), inputs, WEIGHTS_ONLY)
    before = [attribute(graph, behind_quantizer(layer.weight)).clone() for layer in weighted_layers(graph)]
    CorrectBias().apply(graph, context)
    for weight, layer in zip(before, weighted_layers(graph), strict=True):
        assert torch.equal(weight, attribute(graph, behind_quantizer(layer.weight)))


@pytest.mark.parametrize("recipe", ["dfq", "int8-balanced", "normalize-w4a4"])
def test_a_network_without_layers_has_no_bias_to_correct(recipe: str) -> None:
    result = hs.quantize(nn.Sequential(nn.ReLU(), nn.MaxPool2d(2)), torch.randn(8, 3, 8, 8), recipe)
    assert [operator.name for operator in result.record.float_operators] == ["0"]  # nothing asks for a grid
