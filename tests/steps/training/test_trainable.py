"""A quantized graph made trainable and put back again: nothing is lost on either way."""

from __future__ import annotations

from functools import cache

import pytest
import torch
from torch import nn

import halfstep as hs
from halfstep.errors import ExportError, LoweringError, TrainingError
from halfstep.export.mark import mark
from halfstep.graph.edges import behind_quantizer, quantizer_of
from halfstep.graph.edit import attribute, tensor_named
from halfstep.graph.operators import weighted_layers
from halfstep.graph.serialize import duplicate, from_json, to_json
from halfstep.integer.lower import lower
from halfstep.quantizers import AbstractLearnedQuantizer, AccumulatorQuantizer, LqNetsQuantizer, UniformQuantizer
from halfstep.steps.training.live_norm import LiveNorm
from halfstep.steps.training.trainable import Setup, Trainable, make_trainable
from halfstep.steps.training.write_back import write_back

PER_CHANNEL = {"type": "int4", "per_channel": True}
PER_TENSOR = {"type": "int4", "per_channel": False}
DATA = torch.randn(64, 3, 8, 8, generator=torch.Generator().manual_seed(5))
SETUP = Setup("lsq", "lsq", "calibrated", "rounded", "live")


class Network(nn.Module):
    """A residual block, a max pool that shares its input's grid, a strided depthwise layer, a classifier."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm = nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8)
        self.inner, self.norm2 = nn.Conv2d(8, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8)
        self.depthwise, self.norm3 = nn.Conv2d(8, 8, 3, stride=2, groups=8), nn.BatchNorm2d(8)
        self.pool, self.head = nn.MaxPool2d(2), nn.Linear(8, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.norm(self.stem(x)))
        x = self.pool(torch.relu(x + self.norm2(self.inner(x))))
        return self.head(torch.relu(self.norm3(self.depthwise(x))).mean((2, 3)))


@cache
def quantized(per_channel: bool = True) -> hs.Result:
    torch.manual_seed(2)
    model = Network()
    with torch.no_grad():
        for norm in (model.norm, model.norm2, model.norm3):
            norm.weight.uniform_(-1.5, 1.5)  # gains of both signs
            norm.bias.normal_()
        model.train()(3 * DATA)
        model.norm3.weight[2] = 0.0  # a channel that does not vary
    scheme = {"weights": PER_CHANNEL if per_channel else PER_TENSOR, "activations": {"type": "uint4", "symmetric": False}}
    steps = ["fold_batch_norm", "place_quantizers", "calibrate", "round"]
    recipe = hs.Recipe.parse({"name": "test", "scheme": {**scheme, "inputs": "uint8"}, "steps": steps})
    return hs.quantize(model.eval(), DATA, recipe)


def made(setup: Setup = SETUP, per_channel: bool = True) -> tuple[Trainable, hs.Result]:
    result = quantized(per_channel)
    return make_trainable(result.model, result.float_model, setup, lambda: iter([(DATA,)])), result


def shaken(trainable: Trainable) -> Trainable:
    """With every parameter moved a little, as training would."""
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for parameter in trainable.parameters():
            parameter.mul_(1 + 0.1 * torch.randn(parameter.shape, generator=generator))
            parameter.add_(0.02 * torch.randn(parameter.shape, generator=generator))
    trainable.reestimate([(DATA,)])
    return trainable


def test_what_becomes_of_the_graph() -> None:
    trainable, result = made()
    modules = list(trainable.modules())
    assert not any(isinstance(module, (UniformQuantizer, AccumulatorQuantizer)) for module in modules)
    assert sum(isinstance(module, LiveNorm) for module in modules) == 3  # stem, inner, depthwise; not the classifier
    assert set(trainable.norms) == {"stem", "inner", "depthwise"}
    calls = [node for node in trainable.network.graph.nodes if isinstance(quantizer_of(node), AbstractLearnedQuantizer)]
    assert len({node.target for node in calls}) == len(calls)  # the max pool's repetition is gone
    assert len(calls) < sum(isinstance(quantizer_of(node), UniformQuantizer) for node in result.model.graph.nodes)
    for layer in weighted_layers(trainable.network):
        if layer.name in trainable.norms:
            assert layer.bias is None
    for name, parameter in trainable.named_parameters():
        parameter.grad = None
        assert parameter.requires_grad, name
    trainable.train()(DATA).square().sum().backward()
    assert all(parameter.grad is not None for parameter in trainable.parameters())  # none is left over


def test_weights_behind_a_live_norm_have_length_1() -> None:
    trainable, _ = made(Setup("lsq", "lsq", "calibrated", "float", "live"))
    for layer in weighted_layers(trainable.network):
        if layer.name == "inner":
            lengths = tensor_named(trainable.network, "inner.weight").flatten(1).norm(dim=1)
            torch.testing.assert_close(lengths, torch.ones(8), rtol=1e-5, atol=0)


def test_codes_are_those_of_before_where_it_starts_from_them() -> None:
    trainable, result = made()
    for layer, twin in zip(weighted_layers(result.model), weighted_layers(trainable.network), strict=True):
        before, after = quantizer_of(layer.weight), quantizer_of(twin.weight)
        assert before is not None and after is not None
        codes = before.quantize(tensor_named(result.model, f"{layer.name}.weight")).codes
        assert torch.equal(after.quantize(tensor_named(trainable.network, f"{layer.name}.weight")).codes, codes)


@pytest.mark.parametrize("batch_norm", ["live", "folded"])
@pytest.mark.parametrize("kind", ["lsq", "lsq_plus", "pact", "sat", "dorefa", {"sat": {"levels": "dorefa"}}])
@pytest.mark.parametrize("per_channel", [True, False])
def test_what_is_put_back_computes_the_same(kind: hs.Recipe, batch_norm: str, per_channel: bool) -> None:
    """Weights of equal value, biases within half a step of the accumulator, every activation grid the same."""
    trainable, result = made(Setup(kind, "lsq", "calibrated", "rounded", batch_norm), per_channel)  # type: ignore[arg-type]
    shaken(trainable).eval()
    graph = duplicate(result.model)
    write_back(trainable, graph)
    for layer, twin in zip(weighted_layers(graph), weighted_layers(trainable.network), strict=True):
        quantizer, learned = quantizer_of(layer.weight), quantizer_of(twin.weight)
        assert isinstance(quantizer, UniformQuantizer) and learned is not None
        stored, trained = tensor_named(graph, f"{layer.name}.weight"), learned(tensor_named(trainable.network, f"{layer.name}.weight"))
        assert torch.equal(quantizer(stored), stored)
        norm = trainable.network.get_submodule(trainable.norms[layer.name]) if layer.name in trainable.norms else None
        bias = tensor_named(graph, f"{layer.name}.bias")
        if norm is None:
            torch.testing.assert_close(stored, trained, rtol=1e-6, atol=0)
            assert torch.equal(bias, tensor_named(trainable.network, f"{layer.name}.bias"))
        else:
            assert isinstance(norm, LiveNorm)
            factor, shift = norm.affine()
            torch.testing.assert_close(stored, (trained * factor.view(-1, 1, 1, 1)).float(), rtol=1e-5, atol=1e-12)
            torch.testing.assert_close(bias, shift.float(), rtol=1e-6, atol=0)
    for _, module in result.model.named_modules():  # the result it came from is left as it was
        assert not isinstance(module, AbstractLearnedQuantizer)


def test_the_integer_program_equals_what_was_trained() -> None:
    trainable, result = made(Setup({"sat": {"levels": "dorefa"}}, "sat", "calibrated", "float", "live"))
    shaken(trainable)
    graph = duplicate(result.model)
    write_back(trainable, graph)
    graph.meta["batch_size"] = result.model.meta["batch_size"]
    trained = hs.Result(graph, result.float_model, result.recipe, result.statistics, result.samples, result.record, result.figures)
    hs.lower(trained)
    assert trained.record.program is not None
    assert all(record.num_differing == 0 for record in trained.record.program.operators)
    assert {layer.weight.bits for layer in trained.record.layers if layer.weight is not None} == {4}  # what was recorded before


def test_the_papers_start_reaches_every_quantizer() -> None:
    trainable, _ = made(Setup("lsq", {"pact": {"clip": 3.0}}, "paper", "float", "live"))  # type: ignore[arg-type]
    for name, module in trainable.network.named_modules():
        if isinstance(module, AbstractLearnedQuantizer) and not module.is_weight:
            assert float(module.clipping_point.value) == 3.0, name  # type: ignore[union-attr, operator]
    weight = tensor_named(trainable.network, "inner.weight")
    expected = 2 * weight.flatten(1).abs().mean(1) / 7**0.5
    quantizer = next(quantizer_of(layer.weight) for layer in weighted_layers(trainable.network) if layer.name == "inner")
    torch.testing.assert_close(quantizer.step.value, expected.detach())  # type: ignore[union-attr]


@pytest.mark.parametrize(("activations", "per_channel"), [("lq_nets", True), ("lsq", False)])
def test_levels_that_are_no_grid_stay_in_the_graph_and_are_refused_by_name(activations: str, per_channel: bool) -> None:
    trainable, result = made(Setup("lq_nets", activations, "calibrated", "float", "live"), per_channel)
    assert trainable.norms
    shaken(trainable)
    graph = duplicate(result.model)
    write_back(trainable, graph)
    with torch.no_grad():
        torch.testing.assert_close(graph(DATA), trainable.eval()(DATA), rtol=1e-3, atol=1e-4)  # float32: norms folded
    for layer in weighted_layers(graph):
        weight = attribute(graph, behind_quantizer(layer.weight))
        assert torch.equal(quantizer_of(layer.weight)(weight), weight)  # type: ignore[misc]
    restored = from_json(to_json(graph), graph.state_dict())
    assert sum(isinstance(module, LqNetsQuantizer) for module in restored.modules()) >= 4
    assert torch.equal(restored(DATA), graph(DATA))
    with pytest.raises(LoweringError, match=r"no integer form: .*'inner.weight'.*, by lq_nets\. Train with another quantizer, such as lsq"):
        lower(restored, (DATA,))
    with pytest.raises(ExportError, match="the levels of its quantizer, lq_nets, are no grid and have no form in ONNX"):
        mark(graph)


def test_a_batch_norm_that_gets_one_value_a_channel() -> None:
    """One behind a function, which is not folded, on a batch of one."""
    network = nn.Sequential(nn.Linear(8, 8), nn.Sigmoid(), nn.BatchNorm1d(8), nn.Linear(8, 4)).eval()
    recipe = hs.Recipe.load("lsq-w8a8").with_step("finetune", {"epochs": 1, "batch_size": 1})
    with pytest.raises(TrainingError, match="raise the option batch_size of 'finetune'"):
        hs.quantize(network, torch.randn(4, 8), recipe)
