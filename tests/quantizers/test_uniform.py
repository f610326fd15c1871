"""The quantizer that post-training quantization leaves behind."""

from __future__ import annotations

import copy

import pytest
import torch

from halfstep.errors import CalibrationError
from halfstep.grid import Grid, quantize_affine
from halfstep.quantizers import UniformQuantizer


def calibrated(grid: Grid, scale: float = 0.1, zero_point: float = 0.0) -> UniformQuantizer:
    quantizer = UniformQuantizer(grid, None if grid.channel_axis is None else 3)
    quantizer.set(torch.full(quantizer.scale.shape, scale), torch.full(quantizer.scale.shape, zero_point))
    return quantizer


def test_before_it_is_calibrated_it_lets_everything_pass(generator: torch.Generator) -> None:
    quantizer, x = UniformQuantizer(Grid(8, True)), torch.randn(4, generator=generator)
    assert not quantizer.is_calibrated
    assert not quantizer.is_enabled
    assert quantizer(x) is x


def test_codes_without_a_scale_are_refused() -> None:
    quantizer = UniformQuantizer(Grid(8, True))
    with pytest.raises(CalibrationError, match="no scale yet: run the step 'calibrate' first"):
        quantizer.quantize(torch.zeros(3))


def test_setting_a_scale_switches_it_on() -> None:
    quantizer = calibrated(Grid(4, True), 0.5)
    assert quantizer.is_calibrated
    assert quantizer.is_enabled
    assert quantizer(torch.tensor([-9.0, -0.25, 0.3, 0.75, 9.0])).tolist() == [-4.0, 0.0, 0.5, 1.0, 3.5]


@pytest.mark.parametrize("scale", [0.0, -1.0, float("nan"), float("inf")])
def test_a_scale_is_positive_and_finite(scale: float) -> None:
    quantizer = UniformQuantizer(Grid(8, True))
    with pytest.raises(CalibrationError, match="A scale is positive and finite, not"):
        quantizer.set(torch.tensor(scale), torch.tensor(0.0))
    assert not quantizer.is_enabled
    assert not quantizer.is_calibrated


@pytest.mark.parametrize("scale", [1e-46, 1e-300, 1e39, 1e300])
def test_a_scale_that_float32_cannot_hold_is_refused(scale: float) -> None:
    """It comes in float64 and is kept in float32, where it would be 0 or infinite and every value NaN."""
    quantizer = UniformQuantizer(Grid(8, True))
    with pytest.raises(CalibrationError, match="A scale is positive and finite"):
        quantizer.set(torch.tensor(scale, dtype=torch.float64), torch.tensor(0.0))


def test_one_bad_channel_is_enough() -> None:
    quantizer = UniformQuantizer(Grid(8, True, channel_axis=0), 3)
    with pytest.raises(CalibrationError):
        quantizer.set(torch.tensor([1.0, 0.0, 1.0]), torch.zeros(3))


def test_channels_come_with_a_channel_axis() -> None:
    for grid, num_channels in ((Grid(8, True), 3), (Grid(8, True, channel_axis=0), None)):
        with pytest.raises(ValueError, match="num_channels goes with a grid that has a channel axis"):
            UniformQuantizer(grid, num_channels)


@pytest.mark.parametrize("grid", [Grid(4, True), Grid(8, False, False), Grid(4, True, channel_axis=1), Grid(3, True, narrow=True)], ids=str)
def test_the_codes_of_quantize_affine(grid: Grid, generator: torch.Generator) -> None:
    quantizer = calibrated(grid, 0.1, 0.0 if grid.symmetric else 100.0)
    x = torch.randn(2, 3, 4, generator=generator)
    expected = quantize_affine(x, quantizer.scale, quantizer.zero_point, grid)
    assert torch.equal(quantizer.quantize(x).codes, expected.codes)
    assert torch.equal(quantizer(x), expected.dequantize())


def test_the_output_has_the_type_of_the_input(generator: torch.Generator) -> None:
    for dtype in (torch.float16, torch.bfloat16, torch.float32, torch.float64):
        assert calibrated(Grid(4, True))(torch.randn(5, generator=generator).to(dtype)).dtype == dtype


def test_what_it_prints_says_its_grid() -> None:
    assert repr(calibrated(Grid(4, False, False, 1))) == "UniformQuantizer(uint4, channel_axis=1, is_enabled=True)"


def test_the_scale_is_state_and_no_parameter() -> None:
    quantizer = calibrated(Grid(4, True, channel_axis=0))
    assert list(quantizer.parameters()) == []
    assert set(quantizer.state_dict()) == {"scale", "zero_point"}
    fresh = UniformQuantizer(Grid(4, True, channel_axis=0), 3)
    fresh.load_state_dict(copy.deepcopy(quantizer.state_dict()))
    assert torch.equal(fresh.scale, quantizer.scale)
