"""Equalization: ranges become equal, nothing else changes, and what cannot be scaled is left alone and named."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.fx import GraphModule

import halfstep as hs
import zoo
from halfstep.errors import RecipeError
from halfstep.export.onnx_qdq import export_onnx
from halfstep.graph.capture import capture
from halfstep.graph.chains import chains
from halfstep.graph.channels import blocks
from halfstep.graph.check import check
from halfstep.graph.edit import attribute
from halfstep.graph.names import operator_name
from halfstep.graph.operators import weighted_layers
from halfstep.graph.run import run
from halfstep.graph.serialize import duplicate
from halfstep.recipes import Recipe
from halfstep.steps import Equalize, FoldBatchNorm, PlaceQuantizers

# Every weight is rounded once more to float32 (2^-24 each), and sums of at most some 10^2 products follow: 1e-6 a layer.
TOLERANCE = 1e-4


def equalize(graph: GraphModule, **options: object) -> tuple[GraphModule, list[str]]:
    shared = zoo.context()
    FoldBatchNorm().apply(graph, shared)
    shared.notes.clear()
    graph = Equalize(**options).apply(graph, shared)  # type: ignore[arg-type]
    check(graph)
    return graph, shared.notes


def ranges(graph: GraphModule, name: str) -> tuple[Tensor, Tensor]:
    """The largest |w| of every output channel of a layer, and of every input channel of the layers that read it."""
    chain = next(chain for chain in chains(graph) if chain.first.name == name)
    first = blocks(attribute(graph, chain.first.weight), chain.first).abs().amax((2, 3)).flatten()
    readers = [
        blocks(attribute(graph, reader.layer.weight), reader.layer).abs().amax((1, 3)).flatten().view(-1, reader.block).amax(1)
        for reader in chain.readers
    ]
    return first, torch.stack(readers).amax(0)


def spread_out(model: nn.Module, seed: int = 0) -> nn.Module:
    """Channels of very different range, as in a MobileNet."""
    generator = torch.Generator().manual_seed(seed)
    for layer in model.modules():
        if isinstance(layer, (nn.Conv1d, nn.Conv2d, nn.Linear)):
            with torch.no_grad():
                layer.weight *= torch.exp(2 * torch.randn(len(layer.weight), *[1] * (layer.weight.ndim - 1), generator=generator))
    return model


@pytest.mark.parametrize("name", zoo.NAMES)
def test_the_network_computes_what_it_computed(name: str) -> None:
    graph, inputs = zoo.captured(name), zoo.ZOO[name].inputs(seed=5)
    before = zoo.leaves(run(graph, inputs))
    graph, _ = equalize(graph)
    for output, expected in zip(zoo.leaves(run(graph, inputs)), before, strict=True):
        assert zoo.relative(output, expected) <= TOLERANCE


def test_by_hand() -> None:
    """r1 = (4, 1), r2 = (1, 4): s = (2, 1/2), and both become (2, 2)."""
    model = nn.Sequential(nn.Linear(1, 2), nn.ReLU(), nn.Linear(2, 1))
    with torch.no_grad():
        model[0].weight.copy_(torch.tensor([[4.0], [-1.0]]))
        model[0].bias.copy_(torch.tensor([1.0, 3.0]))
        model[2].weight.copy_(torch.tensor([[-1.0, 4.0]]))
    graph, notes = equalize(capture(model, (torch.randn(2, 1),)))
    first, second = (attribute(graph, layer.weight) for layer in weighted_layers(graph))
    assert first.flatten().tolist() == [2.0, -2.0]
    assert second.flatten().tolist() == [-2.0, 2.0]
    assert attribute(graph, weighted_layers(graph)[0].bias).tolist() == [0.5, 6.0]  # type: ignore[arg-type]
    assert notes == ["Equalized 1 layers with those that read them, in 2 sweeps."]


@settings(deadline=None, max_examples=12)
@given(
    st.sampled_from(["relu", "leaky", "prelu", "none"]),
    st.sampled_from(["max", "average", "flatten", "upsample", "pad"]),
    st.integers(0, 99),
)
def test_through_everything_that_commutes(activation: str, between: str, seed: int) -> None:
    torch.manual_seed(seed)
    functions = {"relu": nn.ReLU(), "leaky": nn.LeakyReLU(0.2), "prelu": nn.PReLU(6), "none": nn.Identity()}
    moves = {
        "max": nn.MaxPool2d(3, 2, 1), "average": nn.AvgPool2d(2), "flatten": nn.Flatten(), "upsample": nn.Upsample(scale_factor=2),
        "pad": nn.ZeroPad2d(1),
    }  # fmt: skip
    last = nn.Linear(6 * 36, 3) if between == "flatten" else nn.Conv2d(6, 3, 1)
    model = spread_out(nn.Sequential(nn.Conv2d(2, 6, 3, padding=1), functions[activation], moves[between], last), seed).eval()
    x = torch.randn(2, 2, 6, 6)
    graph, _ = equalize(capture(model, (x,)))
    first, second = ranges(graph, "0")
    assert torch.allclose(first, second, rtol=1e-3)
    with torch.no_grad():
        assert zoo.relative(graph(x), model(x)) <= TOLERANCE


def test_a_depthwise_triple_settles_on_one_range() -> None:
    """Three ranges r1, r2, r3 of a channel become equal; the middle layer has one row a channel, so all three are one number."""
    model = nn.Sequential(nn.Conv2d(3, 8, 1), nn.ReLU(), nn.Conv2d(8, 8, 3, padding=1, groups=8), nn.ReLU(), nn.Conv2d(8, 4, 1))
    graph, _ = equalize(capture(spread_out(model), (torch.randn(2, 3, 6, 6),)))
    (first, middle), (again, last) = ranges(graph, "0"), ranges(graph, "2")
    assert torch.allclose(first, middle, rtol=1e-3) and torch.allclose(again, last, rtol=1e-3) and torch.equal(middle, again)


def test_one_grid_a_tensor_serves_all_channels() -> None:
    """What equalization is for: with 8 bits a tensor, the error falls below a fifth."""
    model = spread_out(nn.Sequential(nn.Conv2d(3, 16, 3), nn.ReLU(), nn.Conv2d(16, 16, 3), nn.ReLU(), nn.Conv2d(16, 4, 3)), seed=3).eval()
    x = torch.randn(4, 3, 9, 9)
    errors = []
    for is_equalized in (False, True):
        graph = capture(model, (x,))
        expected = run(graph, (x,))
        if is_equalized:
            graph, _ = equalize(graph)
        for layer in weighted_layers(graph):
            weight = attribute(graph, layer.weight)
            scale = weight.abs().max() / 127
            weight.copy_((weight / scale).round() * scale)
        errors.append(float((run(graph, (x,)) - expected).square().mean()))
    assert errors[1] < 0.2 * errors[0]


def test_all_layers_that_read_a_tensor_are_scaled() -> None:
    """SqueezeNet's fire: one layer squeezes, two expand."""
    graph, _ = equalize(zoo.captured("tuple_output"))
    first, second = ranges(graph, "body")
    assert torch.allclose(first, second, rtol=1e-3)


@pytest.mark.parametrize(("name", "layer"), [("residual", "conv1"), ("concat", "left"), ("option_a", "conv"), ("shared", "conv")])
def test_adds_concats_and_shared_weights_are_left_alone(name: str, layer: str) -> None:
    plain, (graph, _) = zoo.captured(name), equalize(zoo.captured(name))
    FoldBatchNorm().apply(plain, zoo.context())
    before, after = ({entry.name: entry for entry in weighted_layers(part)}[layer] for part in (plain, graph))
    # the inputs of the layer may have been scaled for the layer before it; its outputs have not
    assert torch.equal(attribute(plain, before.bias), attribute(graph, after.bias))  # type: ignore[arg-type]


def test_a_clip_is_skipped_and_named_unless_it_may_be_replaced() -> None:
    inputs = zoo.ZOO["depthwise"].inputs(seed=1)
    graph, notes = equalize(zoo.captured("depthwise"))
    assert any("a clip bounds all channels alike (of a ReLU6, 'clip' says what to do): 2, 5." in note for note in notes)
    assert sum(operator_name(node) == "hardtanh" for node in graph.graph.nodes) == 2
    replaced, notes = equalize(zoo.captured("depthwise"), clip="replace")
    assert "Equalization replaced clips by ReLUs, also in the float network: 2, 5." in notes
    assert not any(operator_name(node) == "hardtanh" for node in replaced.graph.nodes)
    small = tuple(x * 0.1 for x in inputs)  # nothing reaches 6 there
    assert zoo.relative(run(replaced, small), run(graph, small)) <= TOLERANCE


@pytest.mark.parametrize("behind", ["convolution", "flatten"])
def test_a_clip_keeps_its_function_with_a_bound_for_each_channel(behind: str) -> None:
    torch.manual_seed(0)
    last = [nn.Conv2d(6, 3, 1)] if behind == "convolution" else [nn.Flatten(), nn.ReLU6(), nn.Linear(6 * 36, 3)]
    model = spread_out(nn.Sequential(nn.Conv2d(2, 6, 3, padding=1), nn.ReLU6(), *last)).eval()
    x = 10 * torch.randn(2, 2, 6, 6)
    assert float((model[0](x) > 6).float().mean()) > 0.05  # it clips
    graph, notes = equalize(capture(model, (x,)), clip="keep")
    assert any("gave these clips a bound for each channel, which runs in float: 1" in note for note in notes)
    first, second = attribute(graph, weighted_layers(graph)[0].weight), attribute(graph, weighted_layers(graph)[1].weight)
    read = second.abs().amax((0, 2, 3)) if behind == "convolution" else second.abs().amax(0).view(6, -1).amax(1)
    assert torch.allclose(first.abs().amax((1, 2, 3)), read, rtol=1e-3)
    assert zoo.relative(run(duplicate(graph), (x,)), model(x)) <= TOLERANCE


def test_a_kept_clip_exports(tmp_path: Path) -> None:
    recipe = Recipe.load("int8-per-tensor")
    recipe = recipe.model_copy(update={"steps": (recipe.steps[0], {"equalize": {"clip": "keep"}}, *recipe.steps[1:])})
    result = hs.quantize(zoo.ZOO["depthwise"].model(), zoo.calibration_of("depthwise"), recipe)
    check = export_onnx(result.model, tmp_path / "network.onnx", result.samples)
    assert check.max_output_difference <= 0.05  # a code that falls the other way here and there


def test_a_clip_with_a_lower_bound_cannot_be_replaced() -> None:
    graph, notes = equalize(zoo.captured("activations"), clip="replace")
    assert any("hardtanh, clamp." in note for note in notes)
    inputs = zoo.ZOO["activations"].inputs()
    assert zoo.relative(run(graph, inputs), zoo.eager("activations", inputs)[0]) <= TOLERANCE


def test_dead_channels_are_left_alone() -> None:
    """A range of 0 on either side has no factor; one of 1e-9 would make the bias enormous."""
    for name in ("dead_channel", "large_bias"):
        graph, _ = equalize(zoo.captured(name))
        first, last = (attribute(graph, layer.weight) for layer in weighted_layers(graph))
        channel = 2 if name == "dead_channel" else 0
        plain = zoo.ZOO[name].model()
        assert torch.equal(first[channel], plain[0].weight[channel].detach())  # type: ignore[index]
        assert torch.equal(last[:, channel], plain[2].weight[:, channel].detach())  # type: ignore[index]
        assert torch.isfinite(first).all() and torch.isfinite(last).all()


def test_channels_that_nobody_reads_become_zero() -> None:
    """Through a depthwise layer too: what only a silent channel reads is silent. The grid is that of the channels that count."""
    model = nn.Sequential(nn.Conv2d(3, 8, 1), nn.ReLU(), nn.Conv2d(8, 8, 3, groups=8), nn.ReLU(), nn.Conv2d(8, 4, 1)).eval()
    with torch.no_grad():
        model[0].weight[5], model[2].weight[5], model[4].weight[:, 5] = 50.0, 30.0, 0.0
    x = torch.randn(2, 3, 6, 6)
    graph, _ = equalize(capture(model, (x,)))
    for layer in weighted_layers(graph)[:2]:
        weight, bias = attribute(graph, layer.weight), attribute(graph, layer.bias)  # type: ignore[arg-type]
        assert not weight[5].any() and not bias[5] and float(weight.abs().max()) < 2
    with torch.no_grad():
        assert zoo.relative(graph(x), model(x)) <= TOLERANCE


def test_what_batch_norms_knew_is_scaled_too() -> None:
    graph = zoo.captured("conv_bn_relu")
    FoldBatchNorm().apply(graph, zoo.context())
    before = {name: (mean.clone(), std.clone()) for name, (mean, std) in graph.meta["batch_norms"].items()}
    biases = {layer.name: attribute(graph, layer.bias).double().clone() for layer in weighted_layers(graph)}  # type: ignore[arg-type]
    graph = Equalize().apply(graph, zoo.context())
    for layer in weighted_layers(graph)[:2]:
        factor = biases[layer.name] / attribute(graph, layer.bias).double()  # type: ignore[arg-type]
        for old, new in zip(before[layer.name], graph.meta["batch_norms"][layer.name], strict=True):
            assert torch.allclose(new, old / factor, rtol=1e-5)  # biases are float32


def test_a_batch_norm_that_is_not_folded_is_named() -> None:
    shared = zoo.context()
    Equalize().apply(zoo.captured("conv_bn_relu"), shared)
    assert "Not equalized, because a batch norm follows that is not folded: 1, 4." in shared.notes


def test_it_comes_before_the_quantizers() -> None:
    graph = PlaceQuantizers().apply(zoo.captured("bias_free"), zoo.context())
    with pytest.raises(RecipeError, match="'equalize' rewrites the float network: put it before 'place_quantizers'"):
        Equalize().apply(graph, zoo.context())


class _Views(nn.Module):
    """[N, C, H] with C = H: the batch is merged with the channels, so that the second axis only looks like them."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Conv1d(2, 4, 1), nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(F.relu(self.first(x)).reshape(-1, 4))


def test_a_view_that_mixes_batch_and_channels_is_in_the_way() -> None:
    model, x = _Views().eval(), torch.randn(3, 2, 4)
    graph, notes = equalize(capture(model, (x,)))
    assert notes[0].startswith("Equalized 0 layers")
    with torch.no_grad():
        assert zoo.relative(graph(x), model(x)) <= TOLERANCE


class _Tokens(nn.Module):
    """A transformer's multilayer perceptron, and channels that move to the last axis and back."""

    def __init__(self) -> None:
        super().__init__()
        self.up, self.down, self.conv, self.last = nn.Linear(4, 8), nn.Linear(8, 4), nn.Conv1d(4, 6, 1), nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.down(F.relu(self.up(x))).transpose(1, 2)
        return self.last(F.relu(self.conv(x)).permute(0, 2, 1).mean(1))


def test_channels_on_other_axes_are_followed() -> None:
    model, x = spread_out(_Tokens()).eval(), torch.randn(3, 5, 4)
    graph, notes = equalize(capture(model, (x,)))
    assert notes[0].startswith("Equalized 3 layers")
    for name in ("up", "down", "conv"):
        first, second = ranges(graph, name)
        assert torch.allclose(first, second, rtol=1e-3)
    with torch.no_grad():
        assert zoo.relative(graph(x), model(x)) <= TOLERANCE
