"""Binary weights against the equations of XNOR-Net, in float64."""

from __future__ import annotations

import pytest
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


def activation(kind: str, scale: float = 0.5) -> BinaryQuantizer:
    quantizer = BinaryQuantizer(Grid(2, True, narrow=True), activations=kind).double()  # type: ignore[arg-type]
    quantizer.expect((None, 3, 4, 4))
    quantizer.set(torch.tensor(scale), torch.tensor(0.0))
    return quantizer


def polynomial(u: torch.Tensor) -> torch.Tensor:
    """F' of ReActNet: 2 + 2u below 0, 2 - 2u above, 0 beyond -1 and 1."""
    return torch.where((u < -1) | (u >= 1), 0.0, torch.where(u < 0, 2 + 2 * u, 2 - 2 * u))


def test_zero_or_one_by_the_rounding_of_the_grid(generator: torch.Generator) -> None:
    x = torch.rand(2, 3, 4, 4, generator=generator, dtype=torch.float64)
    weights = torch.randn(x.shape, generator=generator, dtype=torch.float64)
    quantizer = activation("zero_one")
    output, in_x = gradients(quantizer, x, weights)
    assert torch.equal(output, torch.where(x > 0.25, 0.5, 0.0))
    torch.testing.assert_close(in_x, weights * polynomial((x - 0.25) / 0.25))
    assert quantizer.is_uniform and quantizer.shift is None
    assert torch.equal(uniform_of(quantizer.quantize(x))(x), output)


def test_signs_around_a_shift_of_each_channel(generator: torch.Generator) -> None:
    x = torch.rand(2, 3, 4, 4, generator=generator, dtype=torch.float64)
    weights = torch.randn(x.shape, generator=generator, dtype=torch.float64)
    quantizer = activation("signs").double()
    assert quantizer.shift is not None and quantizer.shift.shape == (3,)
    with torch.no_grad():
        quantizer.shift.copy_(torch.tensor([-0.2, 0.0, 0.6]))
    c = 0.25 * (1 + quantizer.shift.detach()).view(1, 3, 1, 1)
    output, in_x = gradients(quantizer, x, weights)
    assert torch.equal(output, torch.where(x < c, -0.25, 0.25))
    slope = polynomial((x - c) / 0.25)
    torch.testing.assert_close(in_x, weights * slope)
    torch.testing.assert_close(quantizer.shift.grad, -0.25 * (weights * slope).sum((0, 2, 3)))  # of (c - b) / b
    assert not quantizer.is_uniform


def test_the_slope_is_that_of_the_step() -> None:
    """It sums up to what the value rises by, s."""
    x = torch.linspace(0, 0.5, 10_001, dtype=torch.float64)
    for kind in ("zero_one", "signs"):
        quantizer = BinaryQuantizer(Grid(2, True, narrow=True), activations=kind).double()  # type: ignore[arg-type]
        quantizer.set(torch.tensor(0.5), torch.tensor(0.0))
        _, in_x = gradients(quantizer, x, torch.ones_like(x))
        assert float(in_x.mean()) * 0.5 == pytest.approx(0.5, rel=1e-3)


def test_shifts_are_saved_and_loaded(generator: torch.Generator) -> None:
    x = torch.rand(2, 3, 4, 4, generator=generator, dtype=torch.float64)
    quantizer = activation("signs")
    with torch.no_grad():
        quantizer.shift.copy_(torch.tensor([-0.2, 0.0, 0.6]))  # type: ignore[union-attr]
    configuration = quantizer.configuration()
    fresh = BinaryQuantizer(Grid(**configuration.pop("grid")), **configuration).double()
    fresh.load_state_dict(quantizer.state_dict())
    fresh.is_enabled = True
    assert torch.equal(fresh(x), quantizer(x))


def test_other_grids_are_not_binary() -> None:
    for grid in (Grid(8, False), Grid(2, False), Grid(2, True, symmetric=False)):
        assert BinaryQuantizer(grid, activations="signs").is_uniform
