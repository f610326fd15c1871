"""Scales: where they come from, and the guards for channels and biases no scale fits."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import halfstep as hs
import zoo
from halfstep.errors import CalibrationError, GraphError, RecipeError
from halfstep.graph.edges import activation_quantizers, behind_quantizer, quantizer_of
from halfstep.graph.edit import tensor_named
from halfstep.graph.run import run
from halfstep.graph.serialize import duplicate
from halfstep.quantizers import AccumulatorQuantizer, UniformQuantizer, quantizers
from halfstep.recipes import Recipe
from halfstep.steps import Calibrate
from halfstep.workflow.result import Result


def scale_of(result: Result, name: str) -> Tensor:
    return quantizer_named(result, name).scale


def quantizer_named(result: Result, name: str) -> UniformQuantizer:
    found = (n for n in result.model.graph.nodes if quantizer_of(n) is not None and behind_quantizer(n).meta["name"] == name)
    quantizer = quantizer_of(next(found))
    assert isinstance(quantizer, (UniformQuantizer, AccumulatorQuantizer))
    return quantizer


def min_max() -> Recipe:
    return Recipe.load("int8").model_copy(
        update={"steps": ("fold_batch_norm", "place_quantizers", {"calibrate": {"weights": "min_max", "activations": "min_max"}}, "round")}
    )


@pytest.mark.parametrize("name", zoo.REPRESENTATIVE)
def test_every_quantizer_has_a_scale_and_is_on(name: str) -> None:
    for path, quantizer in quantizers(zoo.quantized(name).model):
        assert quantizer.is_enabled and quantizer.is_calibrated, path
        assert bool((quantizer.scale > 0).all()) and bool(torch.isfinite(quantizer.scale).all())
        assert bool(((quantizer.zero_point >= quantizer.grid.minimum) & (quantizer.zero_point <= quantizer.grid.maximum)).all())


def test_scales_by_hand() -> None:
    """min_max: the input's range over 255 steps, each row of the weight over 127."""
    result = hs.quantize(zoo.ZOO["bias_free"].model(), zoo.calibration_of("bias_free"), min_max())
    x, weight = zoo.calibration_of("bias_free"), zoo.ZOO["bias_free"].model()[0].weight.detach()
    assert float(scale_of(result, "input")) == pytest.approx(float(x.max() - x.min()) / 255, rel=1e-6)
    assert torch.allclose(scale_of(result, "0.weight"), weight.abs().amax(1) / 127, rtol=1e-6)


def test_a_dead_channel_without_a_bias_takes_the_largest_scale_and_stays_zero() -> None:
    result = zoo.quantized("dead_channel")
    scale = scale_of(result, "0.weight")
    assert scale[2] == scale.max() > 0
    weight = tensor_named(result.model, "0.weight")
    assert torch.equal(weight[2], torch.zeros_like(weight[2]))
    inputs = zoo.ZOO["dead_channel"].inputs(seed=8)
    # uint8 activations over three edges and int8 weights: errors of half a step of 1/255 each in range; 5 % is an order above their sum.
    assert zoo.relative(run(result.model, inputs), zoo.eager("dead_channel", inputs)[0]) <= 0.05


def test_a_weight_that_is_all_zero() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 3)).eval()
    with torch.no_grad():
        model[0].weight.zero_()
    result = hs.quantize(model, torch.randn(16, 4))
    x = torch.randn(3, 4)
    with torch.no_grad():
        # every input gives the same output: one bias code (far below a step), one activation code and the second layer's codes
        assert zoo.relative(run(result.model, (x,)), model(x)) <= 0.05


@pytest.mark.parametrize("recipe", ["int8", "int8-per-tensor", "w4a8", "lattice-w4-g32"])
def test_the_bias_of_zero_weights_is_kept_behind_large_inputs(recipe: str) -> None:
    """All that the layer puts out: on the grid of a scale of 1 it would be 0. Half a code of 2^16 is 2^-17 of it."""
    model = nn.Sequential(nn.Linear(4, 3)).eval()
    with torch.no_grad():
        model[0].weight.zero_()
        model[0].bias.copy_(torch.tensor([0.3, -0.2, 0.0]))
    graph = hs.quantize(model, torch.randn(64, 4) * 100, recipe).model
    assert torch.allclose(run(graph, (torch.randn(2, 4) * 100,)), model[0].bias.detach().expand(2, -1), rtol=2**-16, atol=0)


def test_the_bias_of_a_channel_of_zeros_is_kept_beside_large_weights() -> None:
    """2-bit weights of 40 put their accumulator on a grid of about 30; the channel of zeros beside them has one of its own."""
    model = nn.Sequential(nn.Linear(4, 3)).eval()
    with torch.no_grad():
        model[0].weight.mul_(80)[1] = 0
        model[0].bias[1] = 0.3
    inputs = torch.randn(64, 4) * 100
    result = hs.quantize(model, inputs, "lattice-w2a8")
    assert run(result.model, (inputs,))[:, 1].tolist() == pytest.approx([0.3] * 64, rel=2**-16)
    scale = scale_of(result, "0.weight")
    assert 0 < scale[1] < scale.max()


@pytest.mark.parametrize("mode", ["fixed_point_32", "fixed_point_16", "single_shift", "double_shift"])
def test_zero_weights_in_every_requantization(mode: str) -> None:
    """Layer and channel of zeros, one of their biases far smaller than the others: the program computes what was simulated."""
    model = nn.Sequential(nn.Conv2d(2, 4, 1), nn.ReLU(), nn.Conv2d(4, 3, 1), nn.ReLU6(), nn.Conv2d(3, 2, 1)).eval()
    with torch.no_grad():
        model[0].weight[1], model[0].bias[1] = 0, 1e-7
        model[2].weight.zero_()
        model[2].bias.copy_(torch.tensor([0.3, 0.001, 0]))
    inputs = torch.randn(16, 2, 5, 5) * 100
    recipe = Recipe.load("int8")
    recipe = recipe.model_copy(update={"scheme": recipe.scheme.model_copy(update={"requantization": mode})})
    result = hs.quantize(model, inputs, recipe)
    hs.lower(result)
    record = result.record.program
    assert record is not None and record.max_difference <= 1  # a tie that the simulation rounds to even
    expected = model(inputs).detach()
    assert zoo.relative(run(result.model, (inputs,)), expected) <= 0.02


def test_a_large_bias_fits_into_32_bits() -> None:
    result = zoo.quantized("large_bias")
    codes = quantizer_named(result, "0.bias").quantize(tensor_named(result.model, "0.bias")).codes
    assert codes.abs().max() <= 2**30 * (1 + 1e-6)
    inputs = zoo.ZOO["large_bias"].inputs(seed=8)
    assert zoo.relative(run(result.model, inputs), zoo.eager("large_bias", inputs)[0]) <= 0.05


def test_a_large_bias_with_one_scale_for_the_whole_tensor() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 3)).eval()
    with torch.no_grad():
        model[0].weight.mul_(1e-9)
    result = hs.quantize(model, torch.randn(16, 4), "int8-per-tensor")
    codes = quantizer_named(result, "0.bias").quantize(tensor_named(result.model, "0.bias")).codes
    assert codes.abs().max() <= 2**30 * (1 + 1e-6)


def test_a_shared_layer_fits_both_of_its_inputs() -> None:
    result = zoo.quantized("shared")
    assert len([name for name in zoo.quantizers_of(result.model) if "weight" in name]) == 2
    inputs = zoo.ZOO["shared"].inputs(seed=8)
    assert zoo.relative(run(result.model, inputs), zoo.eager("shared", inputs)[0]) <= 0.1


def _dead(clip: nn.Module) -> nn.Module:
    model = nn.Sequential(nn.Conv2d(3, 4, 1), clip, nn.Conv2d(4, 2, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten()).eval()
    with torch.no_grad():
        model[0].weight.zero_()
        model[0].bias.fill_(-1)
    return model


def strict(recipe: Recipe) -> Recipe:
    steps = tuple({"calibrate": {"strict": True}} if "calibrate" in step else step for step in recipe.steps)
    return recipe.model_copy(update={"steps": steps})


def test_activations_that_are_always_zero_are_refused_with_the_way_out_where_that_is_asked_for() -> None:
    model, recipe = _dead(nn.ReLU()), strict(Recipe.load("int8"))
    with pytest.raises(CalibrationError, match=r"0 for every calibration input.*'1'.*pattern: '1', activations: float"):
        hs.quantize(model, torch.randn(8, 3, 4, 4), recipe)
    scheme = recipe.scheme.model_copy(update={"overrides": (hs.Recipe.parse({"name": "x", "steps": [], "scheme": {
        "overrides": [{"pattern": "1", "activations": "float"}]}}).scheme.overrides)})  # fmt: skip
    hs.quantize(model, torch.randn(8, 3, 4, 4), recipe.model_copy(update={"scheme": scheme}))  # the way out is one


@pytest.mark.parametrize(
    ("clip", "largest"), [(nn.ReLU6(), 6.0), (nn.Hardtanh(0, 2.5), 2.5), (nn.ReLU(), None)], ids=["relu6", "clip", "relu"]
)
def test_tensors_that_are_always_zero_hold_what_they_could(clip: nn.Module, largest: float | None, tmp_path: Path) -> None:
    """A clip's bound, or the operand's grid; the run goes on to a verified file and a program, and the report names the tensor."""
    model, inputs = _dead(clip), torch.randn(8, 3, 4, 4)
    result = hs.quantize(model, inputs, "int8")
    assert any("1 tensor(s) were 0 for every calibration input: '1'" in note for note in result.record.notes)
    source = quantizer_named(result, "input")
    expected = largest or float((source.grid.maximum - source.zero_point) * source.scale)
    assert 255 * float(scale_of(result, "1")) == pytest.approx(expected, rel=1e-6) and float(quantizer_named(result, "1").zero_point) == 0
    assert zoo.relative(run(result.model, (inputs,)), model(inputs).detach()) <= 0.02
    hs.lower(result)
    assert result.record.program is not None and result.record.program.max_difference <= 1
    hs.export.onnx(result, tmp_path / "dead.onnx")


def test_an_input_that_is_always_zero_has_a_scale_of_1() -> None:
    result = hs.quantize(nn.Sequential(nn.Linear(4, 3)), torch.zeros(8, 4), "int8")
    assert float(scale_of(result, "input")) == 1 and float(quantizer_named(result, "input").zero_point) == 128


def test_constant_activations_that_are_not_zero_are_fine() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 2)).eval()
    with torch.no_grad():
        model[0].weight.zero_()
        model[0].bias.fill_(0.7)
    result = hs.quantize(model, torch.randn(8, 4))
    assert zoo.relative(run(result.model, (torch.zeros(2, 4),)), model(torch.zeros(2, 4)).detach()) <= 0.02


class _AveragedScores(nn.Module):
    """Ends with the average of a map of scores, as SqueezeNet does."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.last(torch.relu(self.first(x)))).mean((2, 3))


def test_scores_have_a_range_of_their_own(generator: torch.Generator) -> None:
    """The map of scores reaches to its largest value, other activations are clipped as before."""
    data = torch.randn(64, 3, 10, 10, generator=generator)
    scales = {}
    for scores in (None, "min_max"):
        torch.manual_seed(0)
        step = Calibrate(activations={"percentile": {"percentile": 90}}, scores=scores)
        recipe = Recipe.load("int8").model_copy(update={"steps": ("place_quantizers", step.full_spec(), "round")})
        graph = hs.quantize(_AveragedScores(), data, recipe).model
        scales[scores] = [float(graph.get_submodule(path).scale) for path in activation_quantizers(graph)]
    *rest, last = scales[None]
    assert len(rest) == 2 and rest == scales["min_max"][:-1]
    assert last < 0.7 * scales["min_max"][-1]


def test_a_promise_that_is_not_kept() -> None:
    graph = duplicate(zoo.quantized("residual").model)
    name, quantizer = next(iter(zoo.quantizers_of(graph).items()))
    quantizer.is_enabled = False
    with pytest.raises(GraphError, match=f"'{name}:quantize' has no scale after calibration"):
        Calibrate().ensures(graph)


def test_a_table_has_room_for_rows_that_the_data_do_not_look_up() -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Embedding(100, 8), nn.Linear(8, 4))
    with torch.no_grad():
        network[0].weight[:10] *= 0.1
        network[0].weight[3, 5] = -6.0  # looked up often, once in the table
    tokens = torch.arange(10).expand(32, 10).contiguous()
    result = hs.quantize(network.eval(), (tokens, None), "int8")
    rows, quantizer = network[0].weight.detach(), zoo.quantizers_of(result.model)["0"]
    assert isinstance(quantizer, UniformQuantizer)
    rounded = quantizer(rows)
    assert float((rounded - rows)[10:].abs().max()) <= 0.3  # of values up to 3.5
    assert float((rounded - rows)[3, 5].abs()) <= 0.3


def test_unknown_ranges_are_refused_when_the_step_is_made() -> None:
    with pytest.raises(RecipeError, match="Did you mean 'min_max'"):
        Calibrate(weights="minmax")


def test_a_parameter_that_stayed_at_zero_is_exact(tmp_path: Path) -> None:
    class Shifted(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.last, self.shift = nn.Linear(4, 6), nn.Linear(6, 2), nn.Parameter(torch.zeros(2, 3))

        def forward(self, x: Tensor) -> Tensor:
            return self.last(self.first(x).relu() + self.shift.reshape(6))

    torch.manual_seed(0)
    result = hs.quantize(Shifted(), torch.randn(32, 4))
    assert hs.export.onnx(result, tmp_path / "net.onnx").max_code_difference <= 1
    x = torch.randn(8, 4)
    torch.testing.assert_close(result.model(x), result.float_model(x), atol=0.1, rtol=0)
