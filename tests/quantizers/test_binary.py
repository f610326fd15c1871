"""Binary weights against the equations of XNOR-Net, in float64."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st
from learned_reference import gradients

from halfstep.grid import Grid
from halfstep.quantizers import BinaryQuantizer
from halfstep.quantizers.freeze import uniform_of, with_integer_zero_point


def made(num_channels: int) -> BinaryQuantizer:
    quantizer = BinaryQuantizer(Grid(2, True, channel_axis=0, narrow=True), num_channels, is_weight=True).double()
    quantizer.set(torch.ones(num_channels), torch.zeros(num_channels))
    return quantizer


def test_the_papers_values_and_gradients(generator: torch.Generator) -> None:
    """A_c = |W_c|_1 / n, Ŵ = A sign(W); dC/dW = dC/dŴ (1/n + A 1[|W| <= 1])."""
    w = torch.randn(6, 4, 3, 3, generator=generator, dtype=torch.float64)
    weights = torch.randn(w.shape, generator=generator, dtype=torch.float64)
    output, in_w = gradients(made(6), w, weights)
    a = w.abs().mean((1, 2, 3), keepdim=True)
    torch.testing.assert_close(output, a * w.sign(), rtol=1e-12, atol=0)
    torch.testing.assert_close(in_w, weights * (1 / 36 + a * (w.abs() <= 1)), rtol=1e-12, atol=0)


@given(st.lists(st.floats(-4, 4), min_size=2, max_size=20), st.floats(-1, 1))
def test_no_other_scale_or_signs_are_nearer(values: list[float], shift: float) -> None:
    w = torch.tensor([values], dtype=torch.float64)
    output = made(1)(w)
    own = float((w - output).square().sum())
    assert own <= float((w - (1 + shift) * output).square().sum()) + 1e-9
    other = output.clone()
    other[0, 0] *= -1
    assert own <= float((w - other).square().sum()) + 1e-9


def test_it_freezes_to_integers_of_2_bits(generator: torch.Generator) -> None:
    w = torch.randn(6, 20, generator=generator)
    trained = made(6).float().quantize(w)
    assert set(trained.integers().unique().tolist()) == {-1, 1}
    frozen = with_integer_zero_point(trained)
    assert frozen.grid.bits == 2
    assert torch.equal(uniform_of(frozen).quantize(frozen.dequantize()).codes, trained.codes)


def test_zeros_have_the_sign_1_unless_there_is_nothing_else() -> None:
    w = torch.tensor([[0.0, -2.0], [0.0, 0.0]], dtype=torch.float64)
    assert made(2)(w).tolist() == [[1.0, -1.0], [0.0, 0.0]]


def test_wider_grids_and_activations_keep_what_calibration_found(generator: torch.Generator) -> None:
    x = torch.randn(100, generator=generator)
    for quantizer in (BinaryQuantizer(Grid(8, True), is_weight=True), BinaryQuantizer(Grid(2, False))):
        quantizer.set(torch.tensor(0.1), torch.tensor(0.0))
        expected = (x / 0.1).round().clamp(quantizer.grid.minimum, quantizer.grid.maximum) * 0.1
        torch.testing.assert_close(quantizer(x), expected)
