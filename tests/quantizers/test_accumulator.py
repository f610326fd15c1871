"""Biases on the grid of the accumulator they are added to."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from halfstep.grid import Grid
from halfstep.quantizers import AccumulatorQuantizer, UniformQuantizer

INT32 = Grid(32, True)
PER_CHANNEL = Grid(32, True, channel_axis=0)


def sources(input_scale: float, weight_scale: float | list[float]) -> tuple[UniformQuantizer, UniformQuantizer]:
    from_input = UniformQuantizer(Grid(8, False, False))
    from_input.set(torch.tensor(input_scale), torch.tensor(128.0))
    scale = torch.tensor(weight_scale)
    from_weight = UniformQuantizer(Grid(8, True), None) if scale.ndim == 0 else UniformQuantizer(Grid(8, True, channel_axis=0), len(scale))
    from_weight.set(scale, torch.zeros_like(scale))
    return from_input, from_weight


def switched_on(grid: Grid, from_input: float, from_weight: float | list[float]) -> AccumulatorQuantizer:
    quantizer = AccumulatorQuantizer(grid, sources(from_input, from_weight))
    quantizer.is_enabled = True
    return quantizer


def test_the_scale_is_the_product() -> None:
    quantizer = switched_on(PER_CHANNEL, 0.5, [0.25, 2.0, 1.0])
    assert quantizer.scale.tolist() == [0.125, 1.0, 0.5]
    assert quantizer.zero_point.tolist() == [0.0, 0.0, 0.0]
    assert quantizer.quantize(torch.tensor([1.0, -3.4, 0.25])).codes.tolist() == [8.0, -3.0, 0.0]
    assert quantizer(torch.tensor([1.0, -3.4, 0.25])).tolist() == [1.0, -3.0, 0.0]


def test_codes_of_32_bits_are_exact() -> None:
    """2^31 - 1 and its neighbours are no float32: codes are held in float64."""
    quantizer = switched_on(INT32, 2.0**-20, 2.0**-20)
    codes = torch.tensor([2**31 - 1, 2**31 - 2, 2**30 + 1, -(2**31), 0], dtype=torch.float64)
    quantized = quantizer.quantize(codes * 2.0**-40)
    assert quantized.codes.dtype == torch.float64
    assert quantized.integers().dtype == torch.int32
    assert quantized.integers().tolist() == codes.long().tolist()


def test_what_does_not_fit_is_clipped() -> None:
    quantizer = switched_on(INT32, 1e-6, 1e-6)
    assert quantizer.quantize(torch.tensor([1e9, -1e9])).integers().tolist() == [2**31 - 1, -(2**31)]


def test_the_error_is_half_a_step_of_the_accumulator(generator: torch.Generator) -> None:
    quantizer = switched_on(PER_CHANNEL, 0.013, [0.001, 0.002, 0.003])
    bias = torch.randn(3, generator=generator)
    exact = quantizer.quantize(bias).dequantize()
    # two roundings to float64 of numbers below 2^20 steps: far below 1e-9 steps
    assert bool(((exact - bias.double()).abs() <= quantizer.scale * (0.5 + 1e-9)).all())
    assert quantizer(bias).dtype == torch.float32


def test_the_scale_follows_its_sources() -> None:
    quantizer = switched_on(INT32, 0.5, 0.5)
    quantizer.sources[0].set(torch.tensor(4.0), torch.tensor(0.0))
    assert float(quantizer.scale) == 2.0


def test_it_is_calibrated_when_both_sources_are() -> None:
    one, other = UniformQuantizer(Grid(8, False, False)), UniformQuantizer(Grid(8, True))
    quantizer = AccumulatorQuantizer(INT32, (one, other))
    assert not quantizer.is_calibrated
    one.set(torch.tensor(1.0), torch.tensor(0.0))
    assert not quantizer.is_calibrated
    other.set(torch.tensor(1.0), torch.tensor(0.0))
    assert quantizer.is_calibrated


def test_it_does_not_own_its_sources() -> None:
    quantizer = switched_on(INT32, 1.0, 1.0)
    assert quantizer.state_dict() == {}
    assert list(quantizer.children()) == []


def test_a_copied_network_has_a_bias_that_follows_the_copied_sources() -> None:
    network = nn.Module()
    one, other = sources(1.0, 1.0)
    network.one, network.other, network.bias = one, other, AccumulatorQuantizer(INT32, (one, other))
    copied = copy.deepcopy(network)
    assert copied.bias.sources[0] is copied.one and copied.bias.sources[1] is copied.other
    copied.one.set(torch.tensor(8.0), torch.tensor(0.0))
    assert (float(copied.bias.scale), float(network.bias.scale)) == (8.0, 1.0)


def test_gradients_reach_the_bias() -> None:
    bias = torch.tensor([0.3, -0.7], requires_grad=True)
    switched_on(INT32, 0.1, 0.1)(bias).sum().backward()
    assert bias.grad is not None
    assert bias.grad.tolist() == pytest.approx([1.0, 1.0], rel=1e-6)
