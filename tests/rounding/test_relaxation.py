"""The soft choice between down and up, its regularization and its schedules, by hand and against autograd."""

from __future__ import annotations

import math

import pytest
import torch

from halfstep.rounding.relaxation import Relaxation, annealed, regularization, regularization_slope


def test_rectified_sigmoid_by_hand() -> None:
    """σ(0) = 1/2 -> 0.5 * 1.2 - 0.1 = 0.5; σ(ln 3) = 3/4 -> 0.8; σ(ln 19) = 0.95 -> 1.04, clipped to 1."""
    V = torch.tensor([0.0, math.log(3), math.log(19), -math.log(19), -math.inf], dtype=torch.float64)
    h, slope = Relaxation().soft(V)
    torch.testing.assert_close(h, torch.tensor([0.5, 0.8, 1.0, 0.0, 0.0], dtype=torch.float64))
    torch.testing.assert_close(slope, torch.tensor([0.3, 1.2 * 3 / 16, 0.0, 0.0, 0.0], dtype=torch.float64))


@pytest.mark.parametrize(("zeta", "gamma", "temperature"), [(1.1, -0.1, 1.0), (1.0, 0.0, 1.0), (1.0, 0.0, 0.2), (1.3, -0.2, 3.0)])
def test_slope_is_the_gradient(zeta: float, gamma: float, temperature: float, generator: torch.Generator) -> None:
    V = (4 * torch.randn(200, generator=generator, dtype=torch.float64)).requires_grad_()
    h = torch.clamp(torch.sigmoid(V / temperature) * (zeta - gamma) + gamma, 0, 1)
    (expected,) = torch.autograd.grad(h.sum(), V)
    found, slope = Relaxation(zeta, gamma).soft(V.detach(), temperature)
    torch.testing.assert_close(found, h.detach())
    torch.testing.assert_close(slope, expected)


@pytest.mark.parametrize(("zeta", "gamma", "temperature"), [(1.1, -0.1, 1.0), (1.0, 0.0, 0.5)])
def test_inverse(zeta: float, gamma: float, temperature: float) -> None:
    fraction = torch.linspace(0.001, 0.999, 101, dtype=torch.float64)
    relaxation = Relaxation(zeta, gamma)
    torch.testing.assert_close(relaxation.soft(relaxation.inverse(fraction, temperature), temperature)[0], fraction)


def test_bound_by_hand() -> None:
    """With h = 1 from σ(V) = 1.1 / 1.2 on: V = ln 11. For ζ = 1.3, γ = -0.1 the lower end is farther: σ = 0.1 / 1.4, V = -ln 13."""
    assert Relaxation().bound == pytest.approx(math.log(11))
    assert Relaxation(1.3, -0.1).bound == pytest.approx(math.log(13))
    assert Relaxation(1.0, 0.0).bound == math.inf


def test_regularization_by_hand() -> None:
    """β = 2: 1 - |2h - 1|² is 1 at 1/2, 3/4 at 1/4 and 0 at the ends."""
    h = torch.tensor([0.5, 0.25, 0.75, 0.0, 1.0], dtype=torch.float64)
    assert float(regularization(h, 2.0)) == pytest.approx(1 + 0.75 + 0.75)
    torch.testing.assert_close(regularization_slope(h, 2.0), torch.tensor([0.0, 2.0, -2.0, 4.0, -4.0], dtype=torch.float64))


@pytest.mark.parametrize("beta", [1.5, 2.0, 7.3, 20.0])
def test_regularization_slope_is_the_gradient(beta: float, generator: torch.Generator) -> None:
    h = torch.rand(300, generator=generator, dtype=torch.float64).requires_grad_()
    (expected,) = torch.autograd.grad(regularization(h, beta), h)
    torch.testing.assert_close(regularization_slope(h.detach(), beta), expected)


def test_schedules_by_hand() -> None:
    assert [annealed("linear", 20.0, 2.0, share) for share in (0.0, 0.5, 1.0)] == [20, 11, 2]
    assert [annealed("cosine", 20.0, 2.0, share) for share in (0.0, 0.5, 1.0)] == pytest.approx([20, 11, 2])
    assert annealed("cosine", 20.0, 2.0, 1 / 3) == pytest.approx(2 + 18 * 0.75)  # (1 + cos 60°) / 2
    assert annealed("linear", 20.0, 2.0, 1 / 3) == pytest.approx(14)
