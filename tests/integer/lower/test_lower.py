"""Every network of the zoo, lowered: what has an integer form computes what was simulated, what has none is named."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import halfstep as hs
import zoo
from halfstep.errors import LoweringError
from halfstep.integer import MODES, check, dequantize_outputs, quantize_inputs, run
from halfstep.integer.lower import lower
from halfstep.steps import Scheme
from halfstep.steps.scheme import ActivationScheme

NOT_YET = {  # what the error must name
    "slice_assignment": "slice_scatter",
    "float_operators": "cumsum",
    "paddings": "pad",
    "bn_plain": "batch_norm",  # statistics of the batch itself
    "bn_first": "inputs: uint8",
    "scalars": "inputs: uint8",
    "shuffle": "inputs: uint8",
}
LOWERED = [name for name in zoo.NAMES if name not in NOT_YET]


def with_scheme(recipe: str, **fields: object) -> hs.Recipe:
    chosen = hs.Recipe.load(recipe)
    return chosen.model_copy(update={"scheme": chosen.scheme.model_copy(update=fields)})


def quantized(name: str, recipe: hs.Recipe) -> hs.Result:
    return hs.quantize(zoo.ZOO[name].model(), zoo.calibration_of(name), recipe, samples=None)


@pytest.mark.parametrize("name", LOWERED)
@pytest.mark.parametrize("recipe", ["int8", "w4a8"])
def test_each_operator_computes_what_was_simulated(name: str, recipe: str) -> None:
    result = zoo.quantized(name, recipe)
    program = hs.lower(result)
    record = result.record.program
    assert record is not None and record.max_difference <= 1
    assert record.num_differing <= 1e-3 * record.num_codes + 2
    assert record.max_output_difference < 0.02
    assert check(program) is program and record.weight_bytes == program.num_weight_bytes


@pytest.mark.parametrize(("name", "reason"), NOT_YET.items())
def test_what_has_no_integer_form_is_named(name: str, reason: str) -> None:
    with pytest.raises(LoweringError, match=reason):
        lower(zoo.quantized(name).model, zoo.quantized(name).samples)


@pytest.mark.parametrize("name", ["bn_first", "scalars", "shuffle"])
def test_a_grid_for_every_input_is_the_way_out(name: str) -> None:
    result = quantized(name, with_scheme("int8", inputs="uint8"))
    hs.lower(result)
    assert result.record.program is not None and result.record.program.max_difference <= 1


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", ["residual", "concat", "squeeze_excite", "transposed", "ends_in_average"])
def test_every_mode_stays_near_the_simulation(name: str, mode: str) -> None:
    result = quantized(name, with_scheme("int8", requantization=mode))
    hs.lower(result)
    record = result.record.program
    assert record is not None and record.mode == mode and record.max_difference <= 1
    assert record.max_output_difference < 0.06


@pytest.mark.parametrize("mode", ["single_shift", "double_shift"])
@pytest.mark.parametrize("method", ["nearest", "lattice", {"lattice": {"effort": 0}}])
def test_shifts_are_exact_where_the_scheme_asked_for_them(mode: str, method: object) -> None:
    recipe = with_scheme("int8", requantization=mode)
    steps = [{"round": {"method": method}} if "round" in step else step for step in recipe.steps]
    result = quantized("residual", recipe.model_copy(update={"steps": tuple(steps)}))
    hs.lower(result)
    assert result.record.program is not None
    errors = {entry.name: entry.rescale_error for entry in result.record.program.operators if entry.kind in ("conv", "linear")}
    assert len(errors) == 4 and max(errors.values()) < 1e-6


@pytest.mark.parametrize("mode", ["single_shift", "double_shift"])
def test_shifts_without_scales_for_them_are_refused_with_the_layer(mode: str) -> None:
    with pytest.raises(LoweringError, match=rf"Layer 'conv1': no multiplier of '{mode}' is nearer than \d+ % .* 'requantization: {mode}'"):
        hs.lower(zoo.quantized("residual"), mode)


class CalledTwice(nn.Module):
    """One weight between two pairs of grids: its scales can suit one of them."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(self.layer(x) * 100).relu()


def test_a_weight_that_is_read_twice_cannot_suit_two_shifts() -> None:
    result = hs.quantize(CalledTwice(), torch.randn(32, 8), with_scheme("int8", requantization="double_shift"))
    with pytest.raises(LoweringError, match=r"Layer 'layer.*several readers"):
        hs.lower(result)
    assert hs.lower(result, "fixed_point_16")


@pytest.mark.parametrize("mode", MODES)
def test_sixteen_bits_behind_a_wide_window(mode: str) -> None:
    """A mean of 64 entries on 16 bits: its multiplier is no shift in any mode."""
    model = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.AvgPool2d(8), nn.Conv2d(4, 4, 1))
    recipe = with_scheme("int8", requantization=mode).with_types(activations="uint16")
    result = hs.quantize(model, torch.randn(16, 3, 16, 16), recipe)
    hs.lower(result)
    record = result.record.program
    assert record is not None
    for operator in record.operators:  # the sum of 64 codes of 16 bits times 2^-15: a code more
        assert operator.max_difference <= 1 + 2**16 * operator.rescale_error, operator


@pytest.mark.parametrize("types", [("int2", "uint4"), ("int4", "uint8"), ("int8", "uint4"), ("int3", "int7"), ("int8", "int16")])
def test_bits_of_weights_and_activations_are_independent(types: tuple[str, str]) -> None:
    recipe = hs.Recipe.load("int8").with_types(*types)
    result = quantized("residual", recipe)
    program = hs.lower(result)
    record = result.record.program
    assert record is not None and record.max_difference <= 1
    assert {value.grid.type_name for value in program.values.values()} - {"int32"} == {types[1]}


def test_asymmetric_weights_lose_their_zero_point() -> None:
    scheme = with_scheme("int8").scheme
    weights = scheme.weights.model_copy(update={"type": "uint8", "symmetric": False, "narrow": False})
    result = quantized("residual", with_scheme("int8", weights=weights))
    hs.lower(result)
    assert result.record.program is not None and result.record.program.max_difference <= 1


def test_all_outputs_on_grids() -> None:
    result = quantized("tuple_output", with_scheme("int8", outputs=True))
    program = hs.lower(result)
    assert all(program.values[name].grid.bits == 8 for name in program.outputs)


def test_a_softmax_at_the_end_is_left_out_and_noted() -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 4), nn.Softmax(-1))
    x = torch.randn(64, 6)
    result = hs.quantize(network, x, "int8")
    program = hs.lower(result)
    assert "'3'" in program.notes[0]
    scores = dequantize_outputs(program, run(program, quantize_inputs(program, (x,))))[0]
    assert float((scores.argmax(1) == network(x).argmax(1)).float().mean()) > 0.9


def test_a_softmax_behind_a_layer_in_float_stays_in_float() -> None:
    """Between the grid and the softmax stands more than a scale and a mask, of another shape."""

    class Part(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.last = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 2, 3, bias=False)

        def forward(self, x: Tensor) -> Tensor:
            y: Tensor = self.last(self.first(x).relu())
            return torch.cat([y.softmax(1), y], 1)

    recipe = hs.Recipe.load("int8")
    scheme = Scheme.model_validate(recipe.scheme.model_dump() | {"last_layer": {"weights": "float", "activations": "float"}})
    result = hs.quantize(Part(), torch.randn(8, 3, 8, 8), recipe.model_copy(update={"scheme": scheme}))
    with pytest.raises(LoweringError, match="more than a scale and a mask"):
        hs.lower(result)


def test_an_argmax_at_the_end_is_an_operator() -> None:
    class Classifier(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(6, 5)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.fc(x).argmax(1)

    torch.manual_seed(0)
    network, x = Classifier().eval(), torch.randn(64, 6)
    result = hs.quantize(network, x, "int8")
    program = hs.lower(result)
    (classes,) = run(program, quantize_inputs(program, (x,)))
    assert classes.shape == (64,) and float((classes == result.model(x)).float().mean()) > 0.95


def test_a_gate_of_the_shape_of_what_it_multiplies() -> None:
    """A channel attention: its weights are spread over the image they multiply, whose values they do not read."""

    class Gated(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.gate = nn.Conv2d(3, 4, 3), nn.Linear(4, 4)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = self.conv(x).relu()
            return x * self.gate(x.mean((2, 3))).sigmoid().view(-1, 4, 1, 1).expand_as(x)

    torch.manual_seed(0)
    result = hs.quantize(Gated().eval(), torch.randn(32, 3, 8, 8), "int8")
    hs.lower(result)
    assert result.record.program is not None and result.record.program.max_difference <= 1


class Turned(nn.Module):
    """A group norm of what was turned and not copied."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm, self.last = nn.Linear(6, 8), nn.GroupNorm(2, 8), nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.norm(self.first(x).transpose(1, 2)))  # type: ignore[no-any-return]


class NormedTokens(nn.Module):
    """A batch norm of all tokens as rows of one matrix, as LeViT has it."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm, self.last = nn.Linear(6, 8), nn.BatchNorm1d(8), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        return self.last(self.norm(x.flatten(0, 1)).reshape_as(x))  # type: ignore[no-any-return]


def test_codes_that_were_turned_and_not_copied() -> None:
    result = hs.quantize(Turned(), torch.randn(16, 5, 6))
    hs.lower(result)
    assert result.record.program is not None and result.record.program.max_difference <= 1


def test_a_batch_norm_of_tokens_becomes_a_table() -> None:
    torch.manual_seed(0)
    model, inputs = NormedTokens().eval(), torch.randn(16, 5, 6)
    model.norm.running_mean, model.norm.running_var = torch.randn(8), torch.rand(8) + 0.5
    program = hs.lower(hs.quantize(model, inputs))
    assert "lookup" in [operator.kind for operator in program.operators]
    found = dequantize_outputs(program, run(program, quantize_inputs(program, inputs)))[0]
    with torch.no_grad():
        assert zoo.relative(found, model(inputs)) < 0.03  # two roundings to 8 bits


def test_weights_only_is_refused_with_the_way_out() -> None:
    with pytest.raises(LoweringError, match="no 'float' in the scheme"):
        hs.lower(zoo.quantized("residual", "lattice-w4"))


def test_an_unknown_mode_is_answered_with_the_nearest() -> None:
    with pytest.raises(LoweringError, match="single_shift"):
        hs.lower(zoo.quantized("residual"), "singleshift")


def test_the_scheme_knows_the_modes() -> None:
    for mode in MODES:
        assert Scheme(requantization=mode).requantization == mode


def test_an_accumulator_that_could_overflow_is_refused() -> None:
    network = nn.Sequential(nn.Flatten(), nn.Linear(4096, 2))
    with torch.no_grad():
        network[1].weight.fill_(0.5)
    recipe = hs.Recipe.load("int8").with_types("int8", "uint16")
    result = hs.quantize(network, torch.rand(16, 1, 64, 64), recipe)
    with pytest.raises(LoweringError, match=r"'1'.*32 bits"):
        hs.lower(result)


def test_lowering_leaves_the_result_as_it_was() -> None:
    result = zoo.quantized("residual")
    before = {name: tensor.clone() for name, tensor in result.model.state_dict().items()}
    record = dataclasses.replace(result.record, program=None)
    hs.lower(result)
    assert all(torch.equal(before[name], tensor) for name, tensor in result.model.state_dict().items())
    assert dataclasses.replace(result.record, program=None, bytes=record.bytes) == record


def test_a_single_input_may_stand_for_itself() -> None:
    program = hs.lower(zoo.quantized("residual"))
    (x,) = zoo.ZOO["residual"].inputs(3)
    codes = quantize_inputs(program, x)
    assert torch.equal(run(program, codes[0])[0], run(program, quantize_inputs(program, (x,)))[0])


@pytest.mark.parametrize("name", ["residual", "option_a"])
def test_a_shortcut_is_rounded_once_more_for_its_layers(name: str, tmp_path: Path) -> None:
    """In the program by an operator of its own; in ONNX by a second quantizer; in the report by a row."""
    uint4 = ActivationScheme(type="uint4", symmetric=False)
    result = quantized(name, with_scheme("w4a8", activations=uint4, addends="uint8", shortcuts="uint8"))
    program = hs.lower(result)
    (again,) = [operator for operator in program.operators if operator.kind == "requantize"]
    assert [program.values[value].grid.bits for value in (*again.inputs, again.output)] == [8, 4]
    assert result.record.program is not None and result.record.program.max_difference <= 1
    hs.export.onnx(result, tmp_path / "model.onnx")  # checked layer by layer
    grids = {layer.name: layer.output for layer in result.record.layers if layer.output is not None}
    assert (grids["stem" if name == "option_a" else "conv1"].bits, grids["relu:quantize"].bits) == (8, 4)


@pytest.mark.parametrize("num_features", [8, 6])
def test_a_batch_norm_on_the_positions_of_a_linear_layer_becomes_a_table(num_features: int) -> None:
    torch.manual_seed(0)
    norm = nn.BatchNorm1d(8)  # of the 8 positions of a sample, not of what the layer writes
    norm.running_mean, norm.running_var = torch.randn(8), torch.rand(8) + 0.5
    nn.init.normal_(norm.weight)
    model = nn.Sequential(nn.Linear(4, num_features), norm).eval()
    inputs = torch.randn(64, 8, 4)
    result = hs.quantize(model, inputs, "int8")
    with torch.no_grad():
        expected = model(inputs)
        assert zoo.relative(result.float_model(inputs), expected) < 1e-6  # the same operators on the same tensors
        found = dequantize_outputs(program := hs.lower(result), run(program, quantize_inputs(program, inputs)))[0]
    assert zoo.relative(found, expected) < 0.03  # a step of 8 bits and one of 16, of a range of some 8 deviations
    assert any(operator.kind == "lookup" for operator in result.record.program.operators)


class Through(nn.Module):
    """A function of two layers, the steps between them and a stored tensor."""

    def __init__(self, function: Callable[[Through, Tensor], Tensor], last: nn.Module, stored: tuple[int, ...] = ()) -> None:
        super().__init__()
        self.function, self.first, self.last, self.norm = function, nn.Linear(8, 8), last, nn.BatchNorm1d(8)
        self.norm.running_mean, self.norm.running_var = torch.randn(8), torch.rand(8) + 0.5
        self.stored = nn.Parameter(torch.randn(stored))

    def forward(self, x: Tensor) -> Tensor:
        return self.function(self, x)


def _normalized_flat(model: Through, x: Tensor) -> Tensor:
    flat = model.norm(model.first(x).flatten(0, 1)).relu()  # samples and positions share the axis: their channels are the last one
    return model.last(flat).view(x.shape[0], 8, 8)


def _positions_first(model: Through, x: Tensor) -> Tensor:
    turned = torch.maximum(model.first(x.permute(1, 0, 2)), model.stored)  # the batch is the second axis, the stored tensor's are positions
    return model.last(turned).permute(1, 0, 2)


@pytest.mark.parametrize(("function", "stored"), [(_normalized_flat, ()), (_positions_first, (8, 1, 1))])
def test_a_table_knows_which_axes_a_sample_has(function: Callable[[Through, Tensor], Tensor], stored: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    model, inputs = Through(function, nn.Linear(8, 8), stored).eval(), torch.randn(32, 8, 8)
    program = hs.lower(hs.quantize(model, inputs, "int8"))
    found = dequantize_outputs(program, run(program, quantize_inputs(program, inputs)))[0]
    with torch.no_grad():
        assert zoo.relative(found, model(inputs)) < 0.03  # two roundings to 8 bits; along the wrong axis it is 0.8


def test_a_convolution_across_the_samples_of_a_batch_has_no_integer_form() -> None:
    torch.manual_seed(0)
    model = Through(lambda model, x: model.last(model.first(x.permute(1, 0, 2)).relu()).permute(1, 0, 2), nn.Conv1d(16, 16, 3, padding=1))
    with pytest.raises(LoweringError, match="across the samples of a batch"):
        hs.lower(hs.quantize(model.eval(), torch.randn(16, 8, 8), "int8"))
