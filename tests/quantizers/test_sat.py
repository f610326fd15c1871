"""SAT and DoReFa against the equations of their papers, in float64."""

from __future__ import annotations

import pytest
import torch
from learned_reference import gradients

from halfstep.grid import Grid, Quantized
from halfstep.quantizers import DorefaQuantizer, SatQuantizer
from halfstep.quantizers.clamped_weight import Levels
from halfstep.quantizers.freeze import along_channels, uniform_of, with_integer_zero_point


def weight(generator: torch.Generator) -> torch.Tensor:
    return torch.randn(6, 4, 3, 3, generator=generator, dtype=torch.float64)


def on(quantizer: SatQuantizer | DorefaQuantizer) -> SatQuantizer | DorefaQuantizer:
    quantizer.is_enabled = True
    return quantizer.double()


@pytest.mark.parametrize("bits", [2, 3, 4])
def test_dorefa_levels_are_the_papers(bits: int, generator: torch.Generator) -> None:
    """2 q_k(tanh(w) / (2 max|tanh(w)|) + 1/2) - 1 with q_k(u) = round((2^k - 1) u) / (2^k - 1): equation 9 of Zhou et al."""
    w, levels = weight(generator), 2**bits - 1
    t = torch.tanh(w)
    expected = 2 * torch.round(levels * (t / (2 * t.abs().max()) + 0.5)) / levels - 1
    for quantizer in (DorefaQuantizer(Grid(bits, True), is_weight=True, levels="dorefa"),
                      SatQuantizer(Grid(bits, True), is_weight=True, levels="dorefa", rescale="none")):  # fmt: skip
        torch.testing.assert_close(on(quantizer)(w), expected, rtol=0, atol=1e-14)


@pytest.mark.parametrize("bits", [2, 4])
def test_centred_levels_are_the_authors(bits: int, generator: torch.Generator) -> None:
    """2 (min(floor(2^k u), 2^k - 1) + 1/2) / 2^k - 1."""
    w = weight(generator)
    t = torch.tanh(w)
    u = (t / t.abs().max() + 1) / 2
    expected = 2 * ((2**bits * u).floor().clamp(max=2**bits - 1) + 0.5) / 2**bits - 1
    quantizer = on(SatQuantizer(Grid(bits, True), is_weight=True, levels="centred", rescale="none"))
    torch.testing.assert_close(quantizer(w), expected, rtol=0, atol=1e-14)


@pytest.mark.parametrize("levels", ["dorefa", "centred", "binary"])
def test_levels_of_8_bits_are_symmetric(levels: Levels, generator: torch.Generator) -> None:
    """Or the first and the last layer of a recipe would not fit into bytes."""
    w, grid = weight(generator), Grid(8, True)
    symmetric, other = (on(SatQuantizer(grid, is_weight=True, levels=kind)) for kind in ("symmetric", levels))
    assert torch.equal(other(w), symmetric(w))
    assert with_integer_zero_point(other.quantize(w)).grid.bits == 8


def test_symmetric_levels_hold_0(generator: torch.Generator) -> None:
    w = weight(generator)
    w[0, 0, 0, 0] = 0
    t = torch.tanh(w)
    quantizer = on(SatQuantizer(Grid(4, True), is_weight=True, rescale="none"))
    torch.testing.assert_close(quantizer(w), torch.round(7 * t / t.abs().max()) / 7, rtol=0, atol=1e-15)
    assert float(quantizer(w)[0, 0, 0, 0]) == 0


def test_binary_levels_are_dorefas_at_1_bit(generator: torch.Generator) -> None:
    """2 round(u) - 1 with u = t / 2 + 1/2, on a 2-bit grid; straight-through."""
    w, weights = weight(generator), weight(generator)
    t = torch.tanh(w)
    quantizer = on(SatQuantizer(Grid(2, True, narrow=True), is_weight=True, levels="binary", rescale="none"))
    output, in_w = gradients(quantizer, w, weights)
    torch.testing.assert_close(output, 2 * torch.round(t / t.abs().max() / 2 + 0.5) - 1, rtol=0, atol=0)
    torch.testing.assert_close(in_w, weights * (1 - t**2) / t.abs().max(), rtol=1e-12, atol=0)
    wide = on(SatQuantizer(Grid(8, True), is_weight=True, levels="binary", rescale="none"))
    assert torch.equal(wide(w), on(SatQuantizer(Grid(8, True), is_weight=True, rescale="none"))(w))


@pytest.mark.parametrize("rescale", ["none", "std", "constant"])
def test_the_gradient_of_the_weights(rescale: str, generator: torch.Generator) -> None:
    """dL/dw = dL/dŵ c (1 - tanh(w)^2) / max|tanh(w)|: c and the largest are constants, rounding lets it through."""
    w, weights = weight(generator), weight(generator)
    quantizer = on(SatQuantizer(Grid(4, True), is_weight=True, rescale=rescale))  # type: ignore[arg-type]
    output, in_w = gradients(quantizer, w, weights)
    t = torch.tanh(w)
    q = torch.round(7 * t / t.abs().max()) / 7
    num_outputs = 6 * 9  # n: output channels times places of the kernel
    c = {"none": torch.tensor(1.0), "std": w.std(correction=0) / q.std(correction=0),
         "constant": 1 / (num_outputs * q.var(correction=0)).sqrt()}[rescale]  # fmt: skip
    torch.testing.assert_close(output, c.double() * q, rtol=1e-6, atol=0)  # 1 / 7 is a float32 of the quantizer
    torch.testing.assert_close(in_w, weights * c * (1 - t**2) / t.abs().max(), rtol=1e-6, atol=1e-12)


def test_constant_rescaling_gives_the_variance_of_rule_2(generator: torch.Generator) -> None:
    """N VAR[ŵ] = 1."""
    quantizer = on(SatQuantizer(Grid(2, True), is_weight=True, rescale="constant"))
    assert float(quantizer(weight(generator)).var(correction=0)) * 54 == pytest.approx(1.0, rel=1e-6)


def test_one_channel_at_a_time(generator: torch.Generator) -> None:
    w = weight(generator)
    together = on(SatQuantizer(Grid(3, True, channel_axis=0), 6, is_weight=True))
    for channel in range(6):
        alone = on(SatQuantizer(Grid(3, True), is_weight=True))
        torch.testing.assert_close(together(w)[channel], alone(w[channel : channel + 1])[0], rtol=1e-6, atol=0)


def test_cg_pact(generator: torch.Generator) -> None:
    """dy/da = q(x / a) - x / a below a (0 below 0), 1 above: equation 17 of Jin et al."""
    clip = 1.3
    x = 2 * torch.randn(500, generator=generator, dtype=torch.float64)
    weights = torch.randn(x.shape, generator=generator, dtype=torch.float64)
    quantizer = SatQuantizer(Grid(4, False)).double()
    quantizer.set(torch.tensor(clip / 15, dtype=torch.float64), torch.tensor(0.0))
    output, in_x = gradients(quantizer, x, weights)
    ratio = x.clamp(0, clip) / clip
    q = torch.round(15 * ratio) / 15
    torch.testing.assert_close(output, clip * q, rtol=1e-12, atol=0)
    assert torch.equal(in_x, weights * ((x > 0) & (x < clip)))
    in_clip = (weights * torch.where(x >= clip, 1.0, q - ratio)).sum()
    assert quantizer.clipping_point is not None and quantizer.clipping_point.logarithm.grad is not None
    torch.testing.assert_close(quantizer.clipping_point.logarithm.grad, in_clip / clip, rtol=1e-11, atol=1e-14)


def test_dorefa_activations_are_clipped_at_1_and_teach_nothing(generator: torch.Generator) -> None:
    quantizer = DorefaQuantizer(Grid(2, False)).double()
    quantizer.set(torch.tensor(5.0), torch.tensor(0.0))
    x = torch.randn(100, generator=generator, dtype=torch.float64)
    quantizer.start(x)
    output, in_x = gradients(quantizer, x, torch.ones_like(x))
    torch.testing.assert_close(output, torch.round(3 * x.clamp(0, 1)) / 3, rtol=1e-6, atol=0)
    assert torch.equal(in_x, ((x > -1 / 6) & (x < 1 + 1 / 6)).double())  # the half step beyond each end rounds to it
    assert not list(quantizer.parameters())


@pytest.mark.parametrize("levels", ["symmetric", "dorefa", "centred", "binary"])
@pytest.mark.parametrize("channel_axis", [None, 0])
def test_frozen_weights_are_the_same_numbers_on_integers(levels: Levels, channel_axis: int | None, generator: torch.Generator) -> None:
    w = weight(generator).float()
    count = None if channel_axis is None else 6
    quantizer = SatQuantizer(Grid(2, True, channel_axis=channel_axis), count, is_weight=True, levels=levels)
    quantizer.is_enabled = True
    trained = quantizer.quantize(w)
    frozen = with_integer_zero_point(trained)
    assert torch.equal(frozen.dequantize(), trained.dequantize())
    assert frozen.grid.bits == (2 if levels in ("symmetric", "binary") else 3)
    uniform = uniform_of(frozen)
    assert torch.equal(uniform.quantize(frozen.dequantize()).codes, frozen.codes)
    spread = along_channels(frozen, 0)
    assert torch.equal(spread.dequantize(), frozen.dequantize()) and spread.scale.shape == (6,)


def test_a_zero_point_that_is_a_code_stays() -> None:
    quantized = Quantized(torch.tensor([3.0]), torch.tensor(0.5), torch.tensor(2.0), Grid(4, False, symmetric=False))
    assert with_integer_zero_point(quantized) is quantized
