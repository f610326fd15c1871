"""The rewrite, piece by piece: what of the float model it drops, replaces and keeps."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import onnx
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import halfstep as hs
from halfstep.export.rewrite import codes_name, storage_offset
from halfstep.grid import Grid
from halfstep.steps import Scheme


def export(model: nn.Module, x: Tensor, tmp_path: Path, recipe: str | hs.Recipe = "int8") -> onnx.ModelProto:
    """The exported model; the export itself compares every quantized tensor with the simulation."""
    hs.export.onnx(hs.quantize(model.eval(), x, recipe), tmp_path / "model.onnx")
    return onnx.load(tmp_path / "model.onnx")


def operators(model: onnx.ModelProto) -> Counter[str]:
    return Counter(node.op_type for node in model.graph.node)


class Function(nn.Module):
    """A convolution, a function, a convolution."""

    def __init__(self, function: object, num_channels: int = 4) -> None:
        super().__init__()
        self.first, self.function, self.last = nn.Conv2d(3, 4, 3), function, nn.Conv2d(num_channels, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.function(self.first(x)))


X = torch.randn(16, 3, 8, 8, generator=torch.Generator().manual_seed(1))


def test_a_relu_is_dropped_before_a_grid_that_starts_at_zero(tmp_path: Path) -> None:
    found = operators(export(Function(F.relu), X, tmp_path))
    assert found["Relu"] == 0 and found["Clip"] == 0 and found["QuantizeLinear"] == 3


def test_a_relu6_is_dropped_where_the_grid_ends_at_six_or_before(tmp_path: Path) -> None:
    """The activations stay below 6, so that the grid does."""
    assert operators(export(Function(F.relu6), X, tmp_path))["Clip"] == 0


def test_a_clip_that_is_tighter_than_the_grid_stays(tmp_path: Path) -> None:
    """Its bounds are not codes: min 0.1 cannot be what a grid that contains 0 saturates at."""
    model = export(Function(lambda x: torch.clamp(x, 0.1, 0.5)), X, tmp_path)
    assert operators(model)["Clip"] + operators(model)["Max"] + operators(model)["Min"] >= 1


def test_the_mean_over_all_pixels_is_a_global_pool(tmp_path: Path) -> None:
    class Head(nn.Module):
        def __init__(self, keepdim: bool) -> None:
            super().__init__()
            self.conv, self.fc, self.keepdim = nn.Conv2d(3, 4, 3), nn.Linear(4, 2), keepdim

        def forward(self, x: Tensor) -> Tensor:
            return self.fc(F.relu(self.conv(x)).mean((2, 3), keepdim=self.keepdim).flatten(1))

    for keepdim in (True, False):
        found = operators(export(Head(keepdim), X, tmp_path))
        assert (found["GlobalAveragePool"], found["ReduceMean"]) == (1, 0), f"keepdim={keepdim}"


def test_zero_padding_is_done_on_codes(tmp_path: Path) -> None:
    """Channels are added, which no convolution does itself."""
    model = export(Function(lambda x: F.pad(F.relu(x), (1, 1, 1, 1, 1, 2)), num_channels=7), X, tmp_path)
    (pad,) = [node for node in model.graph.node if node.op_type == "Pad"]
    producers = {output: node.op_type for node in model.graph.node for output in node.output}
    assert producers[pad.input[0]] == "QuantizeLinear"


def test_padding_a_signed_range_puts_in_the_zero_point(tmp_path: Path) -> None:
    """Without a ReLU the zero point is not 0: the export's own comparison fails where 0 is put in."""
    assert operators(export(Function(lambda x: F.pad(x, (2, 0, 0, 1, 2, 0)), num_channels=6), X, tmp_path))["Pad"] == 1


def test_padding_with_another_number_keeps_its_number(tmp_path: Path) -> None:
    """Padding with a value inside the range leaves the range, and so the grid, as it was; it is no zero padding all the same."""
    steps = ("fold_batch_norm", "place_quantizers", {"calibrate": {"activations": "min_max"}}, "round")
    recipe = hs.Recipe.load("int8").model_copy(update={"steps": steps})
    export(Function(lambda x: F.pad(F.relu(x), (1, 1, 1, 1), value=0.25)), X, tmp_path, recipe)


def test_a_grid_below_8_bits_saturates_with_a_clip_of_codes(tmp_path: Path) -> None:
    model = export(Function(F.relu), X, tmp_path, hs.Recipe.load("int8").with_types(activations="uint4"))
    assert operators(model)["Clip"] == 3
    bounds = {t.name: int(onnx.numpy_helper.to_array(t)) for t in model.graph.initializer if t.name.endswith((".lowest", ".highest"))}
    assert set(bounds.values()) == {0, 15}


def test_signed_activations_are_stored_as_uint8(tmp_path: Path) -> None:
    model = export(Function(F.relu), X, tmp_path, hs.Recipe.load("int8").with_types(activations="int8"))
    zero_points = [t for t in model.graph.initializer if t.name.endswith("zero_point") and "weight" not in t.name]
    assert zero_points and all(t.data_type == onnx.TensorProto.UINT8 for t in zero_points)


@pytest.mark.parametrize(
    ("grid", "expected"), [(Grid(8, signed=False), 0), (Grid(8, signed=True), 128), (Grid(4, signed=True), 128), (Grid(16, signed=True), 0)]
)
def test_storage_offset(grid: Grid, expected: int) -> None:
    assert storage_offset(grid, is_constant=False) == expected
    assert storage_offset(grid, is_constant=True) == 0


def test_codes_can_be_found_by_the_users_names(tmp_path: Path) -> None:
    model = export(Function(F.relu), X, tmp_path)
    values = {output for node in model.graph.node for output in node.output}
    assert {codes_name(name) for name in ("x", "relu", "last")} <= values


def test_nothing_is_stored_twice_or_in_float(tmp_path: Path) -> None:
    """The float weights are gone: the file holds codes, scales and zero points alone."""
    model = export(nn.Sequential(nn.Conv2d(3, 32, 3), nn.ReLU(), nn.Conv2d(32, 64, 3)), X, tmp_path)
    num_weights, num_channels = 3 * 32 * 9 + 32 * 64 * 9, 96
    stored = sum(len(t.raw_data) or onnx.numpy_helper.to_array(t).nbytes for t in model.graph.initializer)
    # a byte a weight; a channel: int32 bias, its scale, the weight's scale and zero point: 13 bytes; a few scalars
    assert num_weights <= stored <= num_weights + 13 * num_channels + 100


def test_padding_before_a_convolution_becomes_its_own(tmp_path: Path) -> None:
    """TensorFlow's 'same' padding, on one side only: no Pad is left, and the convolution pads its right and lower side."""
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.ZeroPad2d((0, 1, 0, 1)), nn.Conv2d(4, 5, 3, 2, bias=False), nn.ReLU())
    samples = torch.randn(16, 3, 10, 10, generator=torch.Generator().manual_seed(0))
    check = hs.export.onnx(hs.quantize(network, samples), tmp_path / "model.onnx")
    nodes = onnx.load(tmp_path / "model.onnx").graph.node
    assert not [node for node in nodes if node.op_type == "Pad"]
    pads = [list(attribute.ints) for node in nodes if node.op_type == "Conv" for attribute in node.attribute if attribute.name == "pads"]
    assert pads == [[0, 0, 0, 0], [0, 0, 1, 1]]
    assert check.max_code_difference <= 1


@pytest.mark.parametrize("grid", ["uint8", "uint16"])
def test_padding_within_a_grid(grid: str, tmp_path: Path) -> None:
    """Of codes where ONNX Runtime can pad them, else of what they stand for; it has no Pad for 16 bits."""

    class Padded(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.last = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 2, 1)

        def forward(self, x: Tensor) -> Tensor:
            x = F.pad(self.first(x), (0, 1))
            return self.last(x + x.flip(-1))

    recipe = hs.Recipe.load("int8")
    scheme = Scheme.model_validate(recipe.scheme.model_dump() | {"addends": grid})
    model = export(Padded(), X, tmp_path, recipe.model_copy(update={"scheme": scheme}))
    (pad,) = [node for node in model.graph.node if node.op_type == "Pad"]
    assert pad.input[0].endswith(".codes") == (grid == "uint8")
