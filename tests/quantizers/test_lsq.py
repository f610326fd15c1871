"""LSQ against the equations of its paper, in float64."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from learned_reference import gradients, lsq_gradient_scale, lsq_slopes

from halfstep.errors import CalibrationError, RecipeError
from halfstep.grid import Grid
from halfstep.quantizers import LsqQuantizer
from halfstep.quantizers.learned import full_spec, learned_kind


def made(grid: Grid, scale: float | list[float], num_channels: int | None = None, is_weight: bool = True) -> LsqQuantizer:
    quantizer = LsqQuantizer(grid, num_channels, is_weight=is_weight).double()
    quantizer.set(torch.tensor(scale, dtype=torch.float64), torch.zeros(() if num_channels is None else num_channels))
    return quantizer


@pytest.mark.parametrize(("v", "slope"), [(1.3, -0.3), (2.6, 0.4), (3.4, 3.0), (-5.0, -4.0)])
def test_the_slopes_worked_out_by_hand_at_3_bits(v: float, slope: float) -> None:
    """Q_N = 4, Q_P = 3, s = 1: round(v) - v inside, the limit outside; g = 1 / sqrt(1 * 3)."""
    quantizer = made(Grid(3, True), 1.0)
    gradients(quantizer, torch.tensor([v], dtype=torch.float64), torch.ones(1, dtype=torch.float64))
    assert quantizer.step.logarithm.grad is not None
    assert float(quantizer.step.logarithm.grad) == pytest.approx(slope / 3**0.5, rel=1e-14)


@pytest.mark.parametrize("grid", [Grid(2, True), Grid(4, True), Grid(8, True), Grid(2, False), Grid(4, False)], ids=lambda g: g.type_name)
@pytest.mark.parametrize("is_weight", [True, False])
def test_the_papers_gradient_per_tensor(grid: Grid, is_weight: bool, generator: torch.Generator) -> None:
    x = torch.randn(6, 5, 3, 3, generator=generator, dtype=torch.float64)
    weights = torch.randn(x.shape, generator=generator, dtype=torch.float64)
    scale = 0.37
    quantizer = made(grid, scale, is_weight=is_weight)
    output, in_x = gradients(quantizer, x, weights)
    expected, mask, slope = lsq_slopes(x, scale, grid.minimum, grid.maximum)
    torch.testing.assert_close(output, expected, rtol=1e-14, atol=0)
    assert torch.equal(in_x, mask * weights)
    num_values = x.numel() if is_weight else x[0].numel()  # features of one sample
    in_scale = (slope * weights).sum() * lsq_gradient_scale(num_values, grid.maximum)
    assert quantizer.step.logarithm.grad is not None
    torch.testing.assert_close(quantizer.step.logarithm.grad, in_scale / scale, rtol=1e-12, atol=1e-14)


def test_the_papers_gradient_in_channels_last_memory(generator: torch.Generator) -> None:
    x = torch.randn(4, 8, 6, 6, generator=generator, dtype=torch.float64)
    weights = torch.randn(x.shape, generator=generator, dtype=torch.float64)
    plain, innermost = made(Grid(4, False), 0.2, is_weight=False), made(Grid(4, False), 0.2, is_weight=False)
    expected = gradients(plain, x, weights)
    found = gradients(innermost, x.contiguous(memory_format=torch.channels_last), weights.contiguous(memory_format=torch.channels_last))
    assert torch.equal(found[0], expected[0]) and torch.equal(found[1], expected[1])
    torch.testing.assert_close(innermost.step.logarithm.grad, plain.step.logarithm.grad, rtol=1e-13, atol=0)


def test_one_scale_a_channel_is_one_quantizer_a_channel(generator: torch.Generator) -> None:
    x = torch.randn(3, 40, generator=generator, dtype=torch.float64)
    weights = torch.randn(x.shape, generator=generator, dtype=torch.float64)
    scales = [0.1, 0.2, 0.5]
    together = made(Grid(3, True, channel_axis=0), scales, 3)
    output, in_x = gradients(together, x, weights)
    for channel, scale in enumerate(scales):
        alone = made(Grid(3, True), scale)
        own, own_in_x = gradients(alone, x[channel : channel + 1], weights[channel : channel + 1])
        assert torch.equal(output[channel : channel + 1], own) and torch.equal(in_x[channel : channel + 1], own_in_x)
        assert together.step.logarithm.grad is not None and alone.step.logarithm.grad is not None
        torch.testing.assert_close(together.step.logarithm.grad[channel], alone.step.logarithm.grad, rtol=1e-13, atol=0)


def test_a_zero_point_moves_the_limits(generator: torch.Generator) -> None:
    """uint4 with the code 5 for 0 is a grid from -5 to 10."""
    quantizer = LsqQuantizer(Grid(4, False, symmetric=False)).double()
    quantizer.set(torch.tensor(0.3, dtype=torch.float64), torch.tensor(5.0))
    x = 2 * torch.randn(200, generator=generator, dtype=torch.float64)
    output, in_x = gradients(quantizer, x, torch.ones_like(x))
    expected, mask, slope = lsq_slopes(x, 0.3, -5, 10)
    torch.testing.assert_close(output, expected, rtol=1e-14, atol=0)
    assert torch.equal(in_x, mask)
    assert quantizer.step.logarithm.grad is not None
    torch.testing.assert_close(
        quantizer.step.logarithm.grad, slope.sum() / 0.3 * lsq_gradient_scale(1, 10), rtol=1e-12, atol=1e-12
    )  # one feature a sample


def test_what_lies_on_the_last_code_may_move() -> None:
    """The papers leave v = n and v = p out; weights that start on their codes lie there."""
    quantizer = made(Grid(2, True), 0.5)
    _, in_x = gradients(quantizer, torch.tensor([-1.0, 0.5, 0.51], dtype=torch.float64), torch.ones(3, dtype=torch.float64))
    assert in_x.tolist() == [1.0, 1.0, 0.0]


def test_a_step_of_descent_moves_the_scale_as_in_the_paper(generator: torch.Generator) -> None:
    """S - rate g dL/ds, to first order in the rate."""
    x = torch.randn(50, generator=generator, dtype=torch.float64)
    quantizer = made(Grid(3, True), 0.4)
    gradients(quantizer, x, torch.ones_like(x))
    _, _, slope = lsq_slopes(x, 0.4, -4, 3)
    rate, moved = 1e-6, float(slope.sum()) * lsq_gradient_scale(50, 3)
    torch.optim.SGD(quantizer.parameters(), lr=rate).step()
    assert float(quantizer.step.value) - 0.4 == pytest.approx(-rate * moved, rel=1e-4)  # the second order is rate * moved / s relative


def test_it_starts_as_the_paper_does() -> None:
    """2 E|x| / sqrt(7) = 2 * 2 / sqrt(7)."""
    quantizer = made(Grid(4, True), 1.0)
    quantizer.start(torch.tensor([-3.0, 1.0, 2.0, -2.0], dtype=torch.float64))
    assert float(quantizer.step.value) == pytest.approx(4 / 7**0.5, rel=1e-12)
    quantizer.start(torch.zeros(3, dtype=torch.float64))
    assert float(quantizer.step.value) == pytest.approx(4 / 7**0.5, rel=1e-12)  # zeros say nothing


@settings(max_examples=30, deadline=None)
@given(rate=st.floats(1e-6, 1e3), scale=st.floats(1e-6, 1e3), pull=st.floats(-1e3, 1e3))
def test_the_scale_stays_positive(rate: float, scale: float, pull: float) -> None:
    """Whatever one step of gradient descent does, short of leaving the numbers there are."""
    quantizer = made(Grid(4, True), scale)
    x = torch.linspace(-10 * scale, 10 * scale, 50, dtype=torch.float64)
    gradients(quantizer, x, torch.full_like(x, pull))
    gradient = quantizer.step.logarithm.grad
    assert gradient is not None
    torch.optim.SGD(quantizer.parameters(), lr=rate / max(1.0, float(gradient.abs()))).step()
    assert float(quantizer.step.value) >= 0
    if rate < 600:  # exp(-700) is the smallest
        assert float(quantizer.step.value) > 0


def test_a_scale_that_is_no_scale_is_refused() -> None:
    for scale in (0.0, -1.0, float("inf"), float("nan")):
        with pytest.raises(CalibrationError, match="positive"):
            made(Grid(4, True), scale)


def test_options_are_those_of_the_constructor() -> None:
    assert learned_kind("lsq") == (LsqQuantizer, {"scale_gradient": True})
    assert learned_kind({"lsq": {"scale_gradient": False}})[1] == {"scale_gradient": False}
    assert full_spec("lsq") == {"lsq": {"scale_gradient": True}}
    with pytest.raises(RecipeError, match=r"'lsq' has no option 'scale_gradients'\. Did you mean 'scale_gradient'"):
        learned_kind({"lsq": {"scale_gradients": False}})
    with pytest.raises(RecipeError, match="scale_gradient"):
        learned_kind({"lsq": {"scale_gradient": "perhaps"}})
    with pytest.raises(RecipeError, match="nothing that training could move"):
        learned_kind("uniform")
