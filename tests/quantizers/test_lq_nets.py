"""LQ-Nets against its equations and against the known best quantizer of a normal distribution."""

from __future__ import annotations

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from learned_reference import gradients

from halfstep.grid import Grid
from halfstep.quantizers import LqNetsQuantizer


def made(bits: int = 2, is_weight: bool = True, num_channels: int | None = None) -> LqNetsQuantizer:
    axis = None if num_channels is None else 0
    shape = [] if num_channels is None else [num_channels]
    quantizer = LqNetsQuantizer(Grid(bits, is_weight, channel_axis=axis), num_channels, is_weight=is_weight).double()
    quantizer.set(torch.full(shape, 0.5, dtype=torch.float64), torch.zeros(shape))
    return quantizer


def test_it_starts_on_the_levels_of_the_calibrated_grid() -> None:
    x = torch.linspace(-3, 3, 61, dtype=torch.float64)
    assert made().eval()(x).unique().tolist() == [-0.75, -0.25, 0.25, 0.75]  # moved by half a step
    assert made(2, is_weight=False).eval()(x).unique().tolist() == [0.0, 0.5, 1.0, 1.5]


@settings(deadline=None)
@given(st.lists(st.floats(0.05, 2), min_size=3, max_size=3), st.booleans())
def test_values_go_to_the_nearest_sum_of_the_basis(basis: list[float], is_weight: bool) -> None:
    quantizer = made(3, is_weight).eval()
    quantizer.basis.copy_(torch.tensor(basis, dtype=torch.float64))
    signs = (-1, 1) if is_weight else (0, 1)
    levels = [sum(sign * v for sign, v in zip(combined, basis, strict=True)) for combined in itertools.product(signs, repeat=3)]
    x = torch.linspace(-7, 7, 97, dtype=torch.float64)
    found = quantizer(x)
    for value, level in zip(x.tolist(), found.tolist(), strict=True):
        assert min(abs(level - known) for known in levels) < 1e-12
        assert abs(value - level) <= min(abs(value - known) for known in levels) + 1e-12
    torch.testing.assert_close(quantizer(found), found, rtol=0, atol=1e-12)  # two sums may differ in their last bit alone


@pytest.mark.parametrize("is_weight", [True, False])
def test_the_basis_follows_least_squares(is_weight: bool, generator: torch.Generator) -> None:
    """V <- 0.9 v + 0.1 argmin |x - B v|^2 with B of the codes before."""
    x = torch.randn(3, 400, generator=generator, dtype=torch.float64)
    x = x if is_weight else x.abs().flatten()
    quantizer = made(3, is_weight, 3 if is_weight else None).train()
    old = quantizer.basis.clone()
    codes = quantizer.quantize(x).codes + (4 if is_weight else 0)
    signs = torch.tensor(list(itertools.product((-1.0, 1.0) if is_weight else (0.0, 1.0), repeat=3)), dtype=torch.float64).flip(1)
    quantizer(x)  # powers of two: the codes of the ascending levels are the rows in binary order, the first plane the smallest
    for row in range(3 if is_weight else 1):
        values, planes = (x[row], signs[codes[row].long()]) if is_weight else (x, signs[codes.long()])
        found = torch.linalg.lstsq(planes, values[:, None]).solution.flatten()
        expected = 0.9 * (old[row] if is_weight else old) + 0.1 * found
        torch.testing.assert_close(quantizer.basis[row] if is_weight else quantizer.basis, expected, rtol=2e-4, atol=2e-4)


def test_it_finds_the_best_quantizer_of_a_normal_distribution() -> None:
    """Max 1960, "Quantizing for minimum distortion", table 1: four levels, ±0.4528 and ±1.510, distortion 0.1175."""
    x = torch.erfinv(torch.linspace(-1, 1, 20_003, dtype=torch.float64)[1:-1]) * 2**0.5
    quantizer = made().train()
    for _ in range(200):
        quantizer(x)
    levels = quantizer.eval()(x).unique().tolist()
    assert levels == pytest.approx([-1.510, -0.4528, 0.4528, 1.510], abs=2e-3)
    assert float((quantizer(x) - x).square().mean()) == pytest.approx(0.1175, abs=5e-4)


def test_the_papers_start(generator: torch.Generator) -> None:
    w = torch.randn(2, 5000, generator=generator, dtype=torch.float64) * 0.3
    quantizer = made(2, num_channels=2)
    quantizer.start(w)
    expected = 0.6745 * w.std(1, correction=0) / 2
    torch.testing.assert_close(quantizer.basis, torch.stack([expected, 2 * expected], 1))
    activation = made(2, is_weight=False)
    activation.start(torch.relu(torch.randn(100_000, generator=generator, dtype=torch.float64)))
    assert activation.basis.tolist() == pytest.approx([1.349 / 3, 2 * 1.349 / 3], rel=0.01)  # of a standard normal distribution


def test_gradients_pass_and_of_activations_between_the_ends_alone() -> None:
    x = torch.tensor([-1.0, 0.2, 1.4, 1.6], dtype=torch.float64)
    _, in_w = gradients(made(), x, torch.ones_like(x))
    assert in_w.tolist() == [1, 1, 1, 1]
    _, in_x = gradients(made(2, is_weight=False), x, torch.ones_like(x))
    assert in_x.tolist() == [0, 1, 1, 0]


def test_it_learns_while_training_alone() -> None:
    x = torch.randn(100, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    quantizer = made()
    before = quantizer.basis.clone()
    quantizer.eval()(x)
    with torch.no_grad():
        quantizer.train()(x)
    assert torch.equal(quantizer.basis, before)
    quantizer(x)
    assert not torch.equal(quantizer.basis, before)


def test_scaled_along_another_axis(generator: torch.Generator) -> None:
    w = torch.randn(4, 3, 2, generator=generator, dtype=torch.float64)
    factor = torch.tensor([0.5, 2.0, 3.0], dtype=torch.float64)
    quantizer = made().eval()
    twin = quantizer.scaled(factor, 1).double().eval()
    twin.basis.copy_(quantizer.basis * factor[:, None])
    torch.testing.assert_close(twin(w * factor.view(1, 3, 1)), quantizer(w) * factor.view(1, 3, 1))


def test_images_keep_their_layout_in_memory(generator: torch.Generator) -> None:
    x = torch.rand(2, 3, 4, 4, generator=generator, dtype=torch.float64)
    quantizer = made(2, is_weight=False).eval()
    found = quantizer(x.contiguous(memory_format=torch.channels_last))
    assert found.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(found, quantizer(x))


def test_many_bits_and_values_below_0_keep_the_calibrated_grid() -> None:
    assert made(8).is_uniform and made(5).is_uniform and not made(4).is_uniform
    signed = LqNetsQuantizer(Grid(4, False, symmetric=False))
    signed.set(torch.tensor(0.1), torch.tensor(7.0))
    assert signed.is_uniform
    assert float(signed(torch.tensor(-0.52))) == pytest.approx(-0.5)
