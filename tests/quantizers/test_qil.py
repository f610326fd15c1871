"""QIL against the equations of its paper, in float64."""

from __future__ import annotations

import pytest
import torch
from learned_reference import gradients

from halfstep.grid import Grid
from halfstep.quantizers import QilQuantizer
from halfstep.quantizers.freeze import uniform_of, with_integer_zero_point


def made(bits: int, centre: float, half_width: float, exponent: float | None = None) -> QilQuantizer:
    quantizer = QilQuantizer(Grid(bits, True), is_weight=True, learn_exponent=exponent is not None).double()
    quantizer.set(torch.tensor(1.0 / quantizer.grid.maximum, dtype=torch.float64), torch.tensor(0.0))
    for positive, value in ((quantizer.centre, centre), (quantizer.half_width, half_width), (quantizer.exponent, exponent)):
        if positive is not None:
            positive.set(torch.tensor(value, dtype=torch.float64))
    return quantizer


@pytest.mark.parametrize(("bits", "exponent"), [(2, None), (4, None), (4, 1.7), (8, 0.6)])
def test_the_papers_transformer_and_its_gradients(bits: int, exponent: float | None, generator: torch.Generator) -> None:
    """0 below c - d, (a|w| + b)^g sign(w) within, sign(w) above, a = 1/2d, b = (d - c)/2d; rounding lets the gradient through."""
    c, d, g = 0.7, 0.4, 1.0 if exponent is None else exponent
    w = torch.randn(500, generator=generator, dtype=torch.float64)
    weights = torch.randn(w.shape, generator=generator, dtype=torch.float64)
    highest = 2 ** (bits - 1) - 1
    values, in_w, in_c, in_d, in_g = (torch.zeros_like(w) for _ in range(5))
    for i, x in enumerate(w.tolist()):
        sign = -1.0 if x < 0 else 1.0
        if c - d <= abs(x) <= c + d:
            m = 0.5 / d * abs(x) + 0.5 - 0.5 * c / d
            slope = g * m ** (g - 1)
            values[i] = sign * round(highest * m**g) / highest
            in_w[i] = slope * 0.5 / d
            in_c[i] = sign * slope * -0.5 / d
            in_d[i] = sign * slope * (-0.5 * abs(x) / d**2 + 0.5 * c / d**2)
            in_g[i] = sign * m**g * torch.tensor(m).log()
        elif abs(x) > c + d:
            values[i] = sign
    quantizer = made(bits, c, d, exponent)
    output, found = gradients(quantizer, w, weights)
    torch.testing.assert_close(output, values, rtol=1e-12, atol=1e-15)
    torch.testing.assert_close(found, weights * in_w, rtol=1e-9, atol=1e-12)
    for positive, value, slopes in ((quantizer.centre, c, in_c), (quantizer.half_width, d, in_d), (quantizer.exponent, g, in_g)):
        if positive is not None:
            assert positive.logarithm.grad is not None
            expected = (weights * slopes).sum() / value  # of the logarithm: see learned.py
            torch.testing.assert_close(positive.logarithm.grad, expected, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("bits", [2, 4, 8])
def test_it_starts_as_rounding_to_nearest(bits: int, generator: torch.Generator) -> None:
    w = torch.randn(6, 20, generator=generator, dtype=torch.float64)
    scale = torch.rand(6, generator=generator, dtype=torch.float64) / 4 + 0.05
    quantizer = QilQuantizer(Grid(bits, True, channel_axis=0, narrow=True), 6, is_weight=True).double()
    quantizer.set(scale, torch.zeros(6))
    highest = 2 ** (bits - 1) - 1
    expected = (w / scale[:, None]).round().clamp(-highest, highest)
    assert torch.equal(quantizer.quantize(w).codes, expected)
    quantizer.start(w)
    torch.testing.assert_close(quantizer(w), expected * scale[:, None], rtol=1e-12, atol=0)


def test_weights_on_their_codes_can_move() -> None:
    """Of two bits all codes lie on an end of the interval."""
    quantizer = made(2, 0.5, 0.5)
    w = torch.tensor([-1.0, 0.0, 1.0], dtype=torch.float64)
    _, in_w = gradients(quantizer, w, torch.ones_like(w))
    assert torch.equal(in_w, torch.ones_like(w))


def test_a_pruning_interval_freezes_to_integers(generator: torch.Generator) -> None:
    w = torch.randn(200, generator=generator)
    quantizer = made(3, 0.7, 0.4).float()
    trained = quantizer.quantize(w)
    assert bool((trained.codes[w.abs() < 0.3] == 0).all())
    frozen = with_integer_zero_point(trained)
    assert torch.equal(uniform_of(frozen).quantize(frozen.dequantize()).codes, trained.codes)


def test_activations_keep_their_size(generator: torch.Generator) -> None:
    """x̂ = a T(x): the product rule on the paper's transformer with c = d = a / 2."""
    a = 1.3
    x = 2 * torch.randn(500, generator=generator, dtype=torch.float64)
    weights = torch.randn(x.shape, generator=generator, dtype=torch.float64)
    quantizer = QilQuantizer(Grid(4, False)).double()
    quantizer.set(torch.tensor(a / 15, dtype=torch.float64), torch.tensor(0.0))
    output, in_x = gradients(quantizer, x, weights)
    t = x.clamp(0, a) / a
    rounded = torch.round(15 * t) / 15
    torch.testing.assert_close(output, a * rounded, rtol=1e-12, atol=0)
    assert torch.equal(in_x, weights * ((x > 0) & (x < a)))
    slope = rounded + torch.where((x > 0) & (x < a), a * -x / a**2, 0.0)
    assert quantizer.clipping_point is not None and quantizer.clipping_point.logarithm.grad is not None
    torch.testing.assert_close(quantizer.clipping_point.logarithm.grad, (weights * slope).sum() / a, rtol=1e-10, atol=1e-12)
