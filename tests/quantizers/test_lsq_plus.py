"""LSQ+ against the equations of its paper, in float64, with the offset on a multiple of the scale."""

from __future__ import annotations

import pytest
import torch
from learned_reference import gradients, lsq_gradient_scale

from halfstep.grid import Grid
from halfstep.quantizers import LsqPlusQuantizer, LsqQuantizer

SCALE, ZERO_POINT = 0.3, 5.0


def made() -> LsqPlusQuantizer:
    quantizer = LsqPlusQuantizer(Grid(4, False, symmetric=False)).double()
    quantizer.set(torch.tensor(SCALE, dtype=torch.float64), torch.tensor(ZERO_POINT))
    return quantizer


def test_the_papers_gradients(generator: torch.Generator) -> None:
    """Equations 3 to 6 with b = -z s: round(v) - v, n = 0 or p = 15 in s, and 0 or 1 in b."""
    x = 3 * torch.randn(20, 30, generator=generator, dtype=torch.float64)
    weights = torch.randn(x.shape, generator=generator, dtype=torch.float64)
    quantizer = made()
    assert quantizer.offset is not None
    output, in_x = gradients(quantizer, x, weights)
    offset = -ZERO_POINT * SCALE
    v = (x - offset) / SCALE
    codes = v.round().clamp(0, 15)
    inside = (v > 0) & (v < 15)
    torch.testing.assert_close(output, codes * SCALE + offset, rtol=1e-12, atol=1e-12)
    assert torch.equal(in_x, weights * inside)
    slope = torch.where(inside, v.round() - v, torch.where(v <= 0, 0.0, 15.0))
    g = lsq_gradient_scale(30, 10)  # the paper's p counts from the code of 0 here: 15 - 5
    assert quantizer.step.logarithm.grad is not None and quantizer.offset.grad is not None
    torch.testing.assert_close(quantizer.step.logarithm.grad, (slope * weights).sum() * g / SCALE, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(quantizer.offset.grad, (weights * ~inside).sum() * g, rtol=1e-10, atol=1e-12)


def test_the_zero_point_is_a_code_wherever_the_offset_goes() -> None:
    quantizer = made()
    assert quantizer.offset is not None
    for offset, zero_point in ((-1.5, 5), (-1.4, 5), (-1.2, 4), (7.0, 0), (-99.0, 15)):
        with torch.no_grad():
            quantizer.offset.fill_(offset)
        assert float(quantizer.zero_point) == zero_point
        assert quantizer(torch.zeros(1, dtype=torch.float64)).tolist() == [0.0]


def test_a_weight_starts_at_three_deviations() -> None:
    """Mean 1, standard deviation 2: |1| + 6 = 7 over 2^3 steps."""
    quantizer = LsqPlusQuantizer(Grid(4, True), is_weight=True)
    quantizer.set(torch.tensor(1.0), torch.tensor(0.0))
    quantizer.start(torch.tensor([-1.0, 3.0]))
    assert float(quantizer.step.value) == pytest.approx(7 / 8)


def test_on_a_symmetric_grid_it_is_lsq(generator: torch.Generator) -> None:
    x = torch.randn(4, 30, generator=generator, dtype=torch.float64)
    plus, plain = (kind(Grid(3, True), is_weight=True).double() for kind in (LsqPlusQuantizer, LsqQuantizer))
    for quantizer in (plus, plain):
        quantizer.set(torch.tensor(0.4, dtype=torch.float64), torch.tensor(0.0))
    assert plus.offset is None
    assert all(torch.equal(a, b) for a, b in zip(gradients(plus, x, x), gradients(plain, x, x), strict=True))
    assert torch.equal(plus.step.logarithm.grad, plain.step.logarithm.grad)
