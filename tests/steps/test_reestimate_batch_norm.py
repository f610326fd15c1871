"""Batch-norm re-estimation: mean and deviation of every output are those of the float network; the codes stay."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.fx import GraphModule

import halfstep as hs
import zoo
from halfstep.errors import RecipeError
from halfstep.graph.capture import capture
from halfstep.graph.edges import behind_quantizer, quantizer_of
from halfstep.graph.edit import attribute
from halfstep.graph.operators import weighted_layers
from halfstep.graph.run import observe
from halfstep.quantizers import UniformQuantizer
from halfstep.recipes import Recipe
from halfstep.steps import FoldBatchNorm, ReestimateBatchNorm, Round, Scheme
from halfstep.steps.scheme import ActivationScheme, WeightScheme

Inputs = list[tuple[Tensor, ...]]
WEIGHTS_ONLY = Scheme(weights=WeightScheme(type="int3", per_channel=True), activations=ActivationScheme(type="float"))
PER_TENSOR = WEIGHTS_ONLY.model_copy(update={"weights": WeightScheme(type="int3", per_channel=False)})
MEANS_ONLY = "layers only the means were re-estimated, not the deviations: they have one scale for the whole weight"


def moments(graph: GraphModule, inputs: Inputs) -> dict[str, tuple[Tensor, Tensor]]:
    """Mean and deviation of every layer's output channels, over samples and positions."""
    layers = {layer.node for layer in weighted_layers(graph)}
    found: dict[str, list[Tensor]] = {}

    def see(node: torch.fx.Node, tensor: Tensor) -> Tensor:
        channels = tensor if tensor.ndim == 2 else tensor.movedim(1, -1)
        found.setdefault(str(node.meta["name"]), []).append(channels.double().flatten(0, -2))
        return tensor

    for batch in inputs:
        observe(graph, batch, layers, see)
    return {name: torch.std_mean(torch.cat(parts), 0, correction=0)[::-1] for name, parts in found.items()}


def codes(graph: GraphModule) -> dict[str, Tensor]:
    """Of every quantized weight."""
    found = {}
    for layer in weighted_layers(graph):
        quantizer = quantizer_of(layer.weight)
        assert isinstance(quantizer, UniformQuantizer)
        found[layer.name] = quantizer.quantize(attribute(graph, behind_quantizer(layer.weight))).codes
    return found


@pytest.mark.parametrize("name", ["conv_bn_relu", "residual", "depthwise", "transposed", "linear_bn", "conv1d", "conv3d"])
def test_every_output_has_mean_and_deviation_of_the_float_network(name: str) -> None:
    inputs = [zoo.ZOO[name].inputs(5, seed) for seed in range(3)]
    graph, context = zoo.rounded(zoo.captured(name), inputs, WEIGHTS_ONLY)
    assert context.reference is not None
    known = graph.meta["batch_norms"]
    has_scales = {layer.name for layer in weighted_layers(graph) if quantizer_of(layer.weight).grid.channel_axis is not None}  # type: ignore[union-attr]
    wanted, before, kept = moments(context.reference, inputs), moments(graph, inputs), codes(graph)
    graph = ReestimateBatchNorm().apply(graph, context)
    Round().ensures(graph)  # still on the grid, with its new scale
    after = moments(graph, inputs)
    assert set(known) & has_scales
    for layer in known:
        # Biases, scales and outputs are float32, of sums of some 10^2 products of size 1: 10 * 2^-24, a few times over one behind another
        assert torch.allclose(after[layer][0], wanted[layer][0], atol=1e-5), layer
        if layer in has_scales:
            assert torch.allclose(after[layer][1], wanted[layer][1], atol=1e-5), layer
    assert max(float((before[layer][1] - wanted[layer][1]).abs().max()) for layer in known) > 5e-3
    assert all(torch.equal(kept[layer], found) for layer, found in codes(graph).items())
    assert any(MEANS_ONLY in note for note in context.notes) is (not set(known) <= has_scales)


def test_layers_without_a_batch_norm_are_left_alone() -> None:
    inputs = [zoo.ZOO["residual"].inputs(8)]
    graph, context = zoo.rounded(zoo.captured("residual"), inputs, WEIGHTS_ONLY)
    before = {layer.name: attribute(graph, behind_quantizer(layer.bias)).clone() for layer in weighted_layers(graph)}  # type: ignore[arg-type]
    graph = ReestimateBatchNorm().apply(graph, context)
    for layer in weighted_layers(graph):
        is_same = torch.equal(before[layer.name], attribute(graph, behind_quantizer(layer.bias)))  # type: ignore[arg-type]
        assert is_same is (layer.name not in graph.meta["batch_norms"])
    assert {layer.name for layer in weighted_layers(graph)} - set(graph.meta["batch_norms"]) == {"fc"}


@pytest.mark.parametrize("why", ["per tensor", "shifts", "float"])
def test_where_scales_are_not_free_only_the_mean_comes_back(why: str) -> None:
    weights = WeightScheme(type="float" if why == "float" else "int3", per_channel=why != "per tensor")
    scheme = WEIGHTS_ONLY.model_copy(update={"weights": weights, "requantization": "single_shift" if why == "shifts" else "fixed_point_32"})
    if why == "float":  # of the second layer alone
        first = {"overrides": ({"pattern": "conv2", "weights": "float"},)}
        scheme = Scheme.model_validate(WEIGHTS_ONLY.model_dump() | first)
    inputs = [zoo.ZOO["residual"].inputs(16)]
    graph, context = zoo.rounded(zoo.captured("residual"), inputs, scheme)
    assert context.reference is not None
    scales = {path: buffer.clone() for path, buffer in graph.named_buffers() if path.endswith("scale")}
    wanted = moments(context.reference, inputs)
    graph = ReestimateBatchNorm().apply(graph, context)
    after = moments(graph, inputs)
    for layer in graph.meta["batch_norms"]:
        assert torch.allclose(after[layer][0], wanted[layer][0], atol=1e-5)
    number = 1 if why == "float" else 3
    assert [note for note in context.notes if f"Of {number} {MEANS_ONLY}" in note]
    if why != "float":
        assert all(torch.equal(buffer, scales[path]) for path, buffer in graph.named_buffers() if path in scales)


def test_doing_it_twice_changes_nothing() -> None:
    inputs = [zoo.ZOO["residual"].inputs(8)]
    graph, context = zoo.rounded(zoo.captured("residual"), inputs, WEIGHTS_ONLY)
    ReestimateBatchNorm().apply(graph, context)
    once = {name: tensor.clone() for name, tensor in graph.state_dict().items()}
    ReestimateBatchNorm().apply(graph, context)
    for name, tensor in graph.state_dict().items():
        assert torch.allclose(tensor, once[name], atol=1e-6), name


def test_it_does_not_depend_on_the_batches() -> None:
    x = zoo.ZOO["residual"].inputs(300)[0]
    found = []
    for size in (300, 130):  # the walk merges smaller batches
        graph, context = zoo.rounded(zoo.captured("residual"), [(part,) for part in x.split(size)], WEIGHTS_ONLY)
        ReestimateBatchNorm().apply(graph, context)
        found.append(graph.state_dict())
    for name, tensor in found[0].items():
        assert torch.allclose(tensor, found[1][name], atol=1e-6), name


def test_a_first_batch_unlike_the_others_does_no_harm() -> None:
    """Sums are taken in units of the first batch: here its channels hardly move, and later ones move a thousand times as much."""
    x = zoo.ZOO["residual"].inputs(256)[0]
    x[:128] *= 1e-3
    graph, context = zoo.rounded(zoo.captured("residual"), [(part,) for part in x.split(128)], WEIGHTS_ONLY)
    assert context.reference is not None
    wanted = moments(context.reference, [(x,)])
    ReestimateBatchNorm().apply(graph, context)
    after = moments(graph, [(x,)])
    for layer in graph.meta["batch_norms"]:
        for part in (0, 1):
            assert torch.allclose(after[layer][part], wanted[layer][part], rtol=1e-4, atol=1e-5), layer


def test_behind_quantized_activations() -> None:
    """The whole recipe at 4 bits. Biases go through their own grid afterwards: at most half of an accumulator's step from the value set."""
    recipe = Recipe.load("int8").with_types(weights="int4", activations="uint4")
    errors = []
    inputs = [zoo.ZOO["residual"].inputs(zoo.NUM_SAMPLES)]
    for steps in (recipe.steps, (*recipe.steps, "reestimate_batch_norm")):
        result = hs.quantize(zoo.ZOO["residual"].model(), zoo.calibration_of("residual"), recipe.model_copy(update={"steps": steps}))
        wanted, found = moments(result.float_model, inputs), moments(result.model, inputs)
        names = [name for name in wanted if name != "fc"]
        errors.append([max(float((found[name][part] - wanted[name][part]).abs().max()) for name in names) for part in (0, 1)])
    assert errors[1][0] < 0.01 < 0.02 < errors[0][0]
    assert errors[1][1] < 1e-5 < 0.01 < errors[0][1]


class _Huge(nn.Module):
    """A batch norm whose variance is so large that its channel's weights vanish beside its bias."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.bn, self.last = nn.Conv2d(3, 4, 3, bias=False), nn.BatchNorm2d(4), nn.Conv2d(4, 2, 1)
        with torch.no_grad():
            self.bn.running_var[1] = 1e18  # weights of some 1e-10
            self.bn.bias[1] = 1.5
            self.conv.weight[2] = 0.0  # a channel that is constant in both networks

    def forward(self, x: Tensor) -> Tensor:
        return self.last(torch.relu(self.bn(self.conv(x))))


def test_biases_still_fit_and_constant_channels_keep_their_scale() -> None:
    recipe = Recipe.load("int8").with_types(weights="int4", activations="uint4")
    x = torch.randn(32, 3, 6, 6)
    model = _Huge().eval()
    plain = hs.quantize(model, x, recipe)
    result = hs.quantize(model, x, recipe.model_copy(update={"steps": (*recipe.steps, "reestimate_batch_norm")}))
    scales = []
    for part in (plain.model, result.model):
        layer = weighted_layers(part)[0]
        bias = quantizer_of(layer.bias)
        assert bias is not None
        steps = bias.quantize(attribute(part, behind_quantizer(layer.bias))).codes  # type: ignore[arg-type]
        assert float(steps.abs().max()) <= 2**30 * 1.001
        scales.append(quantizer_of(layer.weight).scale)  # type: ignore[union-attr]
    assert float(scales[0][2]) == float(scales[1][2])
    assert bool((scales[1] > 0).all() and torch.isfinite(scales[1]).all())
    assert not any(buffer.requires_grad for buffer in result.model.buffers())


def test_without_folded_batch_norms_a_note_says_so() -> None:
    inputs = [zoo.ZOO["bias_free"].inputs(4)]
    graph, context = zoo.rounded(zoo.captured("bias_free"), inputs, WEIGHTS_ONLY)
    before = {name: tensor.clone() for name, tensor in graph.state_dict().items()}
    graph = ReestimateBatchNorm().apply(graph, context)
    assert context.notes == ["No batch norm was re-estimated: none was folded."]
    assert all(torch.equal(tensor, before[name]) for name, tensor in graph.state_dict().items())


def test_it_comes_behind_the_rounding() -> None:
    context = zoo.context()
    graph = FoldBatchNorm().apply(capture(zoo.ZOO["residual"].model(), zoo.ZOO["residual"].inputs()), context)
    with pytest.raises(RecipeError, match="'reestimate_batch_norm' works on quantized weights: put it behind 'round'"):
        ReestimateBatchNorm().apply(graph, context)
