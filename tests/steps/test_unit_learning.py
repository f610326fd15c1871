"""What block reconstruction learns with: soft codes around the current ones, and quantizers whose step has a slope."""

from __future__ import annotations

import pytest
import torch

from halfstep.grid import Grid, Quantized, quantize_affine
from halfstep.quantizers import UniformQuantizer
from halfstep.steps.unit_learning import DroppingQuantizer, SoftCodes, drop_mask


def soft_codes(grid: Grid, positions: list[float], codes: list[float], softness: float = 0.3) -> SoftCodes:
    scale = torch.tensor(0.5)
    start = Quantized(torch.tensor(codes), scale, torch.tensor(0.0), grid)
    return SoftCodes(torch.tensor(positions) * scale, start, softness)


def test_soft_codes_by_hand() -> None:
    """Codes 1 and a float weight above, below, far above and exactly at it: 0.3 of the way, at most 0.3, at least 0.02."""
    layer = soft_codes(Grid(4, True), [1.5, 0.5, 3.7, 1.0], [1.0, 1.0, 1.0, 1.0])
    soft, h, slope = layer.soft()
    torch.testing.assert_close(soft / 0.5, torch.tensor([1.15, 0.85, 1.3, 1.02]))
    assert layer.base.tolist() == [1, 0, 1, 1]
    torch.testing.assert_close(h, torch.tensor([0.15, 0.85, 0.3, 0.02]))
    assert bool((slope > 0).all())


@pytest.mark.parametrize("bits", [2, 4, 8])
def test_the_decision_to_begin_with_is_the_current_code(bits: int, generator: torch.Generator) -> None:
    grid = Grid(bits, False, False, 0)
    scale, zero_point = torch.rand(8, generator=generator) + 0.1, torch.full((8,), 1.0)
    weight = torch.randn(8, 50, generator=generator)
    codes = quantize_affine(weight, scale, zero_point, grid).codes
    codes = (codes + torch.randint(-2, 3, codes.shape, generator=generator)).clamp(grid.minimum, grid.maximum)
    layer = SoftCodes(weight, Quantized(codes, scale, zero_point, grid), 0.49)
    assert torch.equal(layer.hard().codes, codes)
    for V in (-10.0, 10.0):  # whatever is learned stays on the grid, next to where it began
        layer.V = torch.where(torch.isfinite(layer.V), V, layer.V)
        found = layer.hard().codes
        assert bool(((found >= grid.minimum) & (found <= grid.maximum) & ((found - codes).abs() <= 1)).all())


def test_at_the_end_of_the_grid_and_at_pruned_weights_there_is_nothing_to_learn() -> None:
    layer = soft_codes(Grid(2, True), [1.4, -2.6, 0.0, 0.0], [1.0, -2.0, 0.0, 1.0])
    assert torch.isinf(layer.V).tolist() == [True, True, True, False]
    soft, _, slope = layer.soft()
    assert (soft / 0.5)[:3].tolist() == [1, -2, 0]
    assert slope[:3].tolist() == [0, 0, 0]


def quantizer(grid: Grid, scale: torch.Tensor, zero_point: torch.Tensor) -> UniformQuantizer:
    made = UniformQuantizer(grid, None if scale.ndim == 0 else len(scale))
    made.scale, made.zero_point = made.scale.to(scale.dtype), made.zero_point.to(scale.dtype)
    made.set(scale, zero_point)
    return made


@pytest.mark.parametrize("grid", [Grid(4, False, False), Grid(3, True), Grid(4, False, False, 1)])
def test_slopes_are_those_of_learned_step_sizes(grid: Grid, generator: torch.Generator) -> None:
    """Against autograd through `quantize_affine`, which rounds straight through; inside, at the border and beyond the limits."""
    shape = () if grid.channel_axis is None else (6,)
    scale = torch.full(shape, 0.2, dtype=torch.float64)
    zero_point = torch.full(shape, 0.0 if grid.symmetric else 3.0, dtype=torch.float64)
    module = DroppingQuantizer(quantizer(grid, scale, zero_point), 0.0, True, generator).double()
    x = torch.randn(5, 6, 7, generator=generator, dtype=torch.float64).requires_grad_()
    step = scale.clone().requires_grad_()
    upstream = torch.randn(5, 6, 7, generator=generator, dtype=torch.float64)
    expected = quantize_affine(x, step, zero_point, grid).dequantize()
    in_x, in_step = torch.autograd.grad(expected, [x, step], upstream)
    found = module(x)
    torch.testing.assert_close(found, expected)
    found_x, found_logarithm = torch.autograd.grad(found, [x, module.logarithm], upstream)
    torch.testing.assert_close(found_x, in_x)
    torch.testing.assert_close(found_logarithm, in_step * scale)  # d s / d log s = s


def test_what_is_dropped_passes_through(generator: torch.Generator) -> None:
    module = DroppingQuantizer(quantizer(Grid(2, True), torch.tensor(0.5), torch.tensor(0.0)), 0.25, True, generator)
    x = torch.randn(40, 50, generator=generator).requires_grad_()
    found = module.train()(x)
    passed = found == x
    assert abs(float(passed.float().mean()) - 0.25) < 5 * (0.25 * 0.75 / 2000) ** 0.5  # five standard deviations
    assert torch.equal(found[~passed], module.quantizer(x)[~passed])
    (in_x,) = torch.autograd.grad(found.sum(), x)
    assert bool((in_x[passed] == 1).all())
    assert torch.equal(module.eval()(x), module.quantizer(x))


def test_the_step_starts_where_it_was_and_can_be_forgotten(generator: torch.Generator) -> None:
    module = DroppingQuantizer(quantizer(Grid(4, True), torch.tensor(0.5), torch.tensor(0.0)), 0.5, True, generator)
    assert float(module.scale) == 0.5
    module.logarithm.data.fill_(1.0)
    assert float(module.scale) == pytest.approx(0.5 * 2.718281828)
    module.forget()
    assert float(module.scale) == 0.5


def test_a_quantizer_that_is_off_stays_off(generator: torch.Generator) -> None:
    off = UniformQuantizer(Grid(4, True))
    module = DroppingQuantizer(off, 0.5, True, generator)
    x = torch.randn(10, generator=generator)
    assert module(x) is x
    assert not module.logarithm.requires_grad


@pytest.mark.parametrize("probability", [0.0, 0.5, 0.8])
@pytest.mark.parametrize("shape", [(3, 5, 7, 11), (100,), (1,)])
def test_drop_mask(probability: float, shape: tuple[int, ...], generator: torch.Generator) -> None:
    x = torch.randn(shape)
    if x.ndim == 4:
        x = x.contiguous(memory_format=torch.channels_last)
    masks = torch.stack([drop_mask(x, probability, generator) for _ in range(400)]).float()
    assert masks.shape[1:] == x.shape
    number, share = masks.numel(), round(256 * probability) / 256
    assert abs(float(masks.mean()) - share) <= 5 * (share * (1 - share) / number) ** 0.5  # five standard deviations
