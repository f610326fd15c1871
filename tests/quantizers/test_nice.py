"""NICE against its equations in each of the three stages, in float64."""

from __future__ import annotations

import pytest
import torch
from learned_reference import gradients

from halfstep.grid import Grid
from halfstep.quantizers import NiceQuantizer

SCALE = 0.3


def made(noise: float = 0.5) -> NiceQuantizer:
    quantizer = NiceQuantizer(Grid(3, True, narrow=True), is_weight=True, noise=noise).double()
    quantizer.set(torch.tensor(SCALE, dtype=torch.float64), torch.tensor(0.0))
    quantizer.calibrated_scale.fill_(SCALE)
    return quantizer


def test_the_three_stages(generator: torch.Generator) -> None:
    w = torch.randn(4000, generator=generator, dtype=torch.float64)
    weights = torch.randn(w.shape, generator=generator, dtype=torch.float64)
    clipped = w.clamp(-3 * SCALE, 3 * SCALE)
    rounded = (clipped / SCALE).round() * SCALE
    inside = w.abs() < 3 * SCALE
    quantizer = made()
    for stage, expected in (("real", clipped), ("rounded", rounded)):
        quantizer.stage = stage  # type: ignore[assignment]
        output, in_w = gradients(quantizer, w, weights)
        torch.testing.assert_close(output, expected, rtol=1e-12, atol=1e-15)
        sure = inside | (w.abs() > 3.5 * SCALE)  # the half step beyond the last code rounds to it
        torch.testing.assert_close(in_w[sure], (weights * inside)[sure], rtol=1e-12, atol=0)
    quantizer.stage = "noisy"
    with torch.random.fork_rng():
        torch.manual_seed(3)
        output, _ = gradients(quantizer, w, weights)
    has_noise = ~torch.isclose(output, rounded, rtol=0, atol=1e-9)
    assert float(has_noise.double().mean()) == pytest.approx(0.5, abs=0.04)
    error = (output - clipped)[has_noise] / SCALE
    assert float(error.abs().max()) <= 0.5
    assert float(error.var()) == pytest.approx(1 / 12, rel=0.1)
    assert abs(float(error.mean())) < 0.03


def test_layers_take_their_turns_one_after_another() -> None:
    seen = []
    quantizers = [made(), made()]
    for done in (0.0, 0.3, 0.4, 0.7, 0.8):
        for index, quantizer in enumerate(quantizers):
            quantizer.follow(done, index, 2)
        seen.append([quantizer.stage for quantizer in quantizers])
    assert seen == [["noisy", "real"], ["noisy", "real"], ["rounded", "noisy"], ["rounded", "noisy"], ["rounded", "rounded"]]


def test_in_eval_mode_weights_are_on_their_codes(generator: torch.Generator) -> None:
    w = torch.randn(50, generator=generator, dtype=torch.float64)
    quantizer = made()
    quantizer.stage = "noisy"
    assert torch.equal(quantizer.eval()(w), quantizer.quantize(w).dequantize())


def test_it_starts_at_the_mean_and_3_deviations(generator: torch.Generator) -> None:
    w = torch.randn(50, generator=generator, dtype=torch.float64)
    quantizer = made()
    quantizer.start(w)
    assert float(quantizer.scale) == pytest.approx(float(w.mean().abs() + 3 * w.std(correction=0)) / 3, rel=1e-12)


def test_activations_learn_by_what_is_clipped() -> None:
    quantizer = NiceQuantizer(Grid(4, False)).double()
    quantizer.set(torch.tensor(0.1), torch.tensor(0.0))
    x = torch.tensor([-1.0, 0.7, 2.0, 3.0], dtype=torch.float64)
    output, in_x = gradients(quantizer, x, torch.ones_like(x))
    assert output.tolist() == pytest.approx([0.0, 0.7, 1.5, 1.5])
    assert in_x.tolist() == [0, 1, 0, 0]
    assert quantizer.clipping_point is not None and quantizer.clipping_point.logarithm.grad is not None
    assert float(quantizer.clipping_point.logarithm.grad) == pytest.approx(2 / 1.5)  # of ln a: see learned.py
