"""How much of a channel goes to the weights: the expected error against the measured one, and never more than without smoothing."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from halfstep.grid import Grid, quantize_affine
from halfstep.ranges import Distribution, MinMax
from halfstep.steps.smoothing_factor import Channels, expected_error, factor_at, factor_of_least_error

INT8, INT4 = (Grid(bits, True, True, 0, True) for bits in (8, 4))
UINT8 = Grid(8, False, False)
WEIGHT_GRIDS = {
    "int8": INT8,
    "int4": INT4,
    "int8, one scale": INT8.per_tensor(),
    "int4, groups": Grid(4, True, True, 0, True, 16),
    "int4, uneven groups": Grid(4, True, True, 0, True, 20),
    "float": None,
}


def layer(generator: torch.Generator, num_large: int) -> tuple[Tensor, Tensor]:
    """(inputs [4096, 48], weight [64, 48]), float64; some channels of the inputs are thirty times the others."""
    x = torch.randn(4096, 48, generator=generator, dtype=torch.float64)
    x[:, :num_large] *= 30
    return x, torch.randn(64, 48, generator=generator, dtype=torch.float64)


def channels(x: Tensor) -> Channels:
    return Channels(x.amin(0), x.amax(0), x.square().mean(0))


def rounded(x: Tensor, grid: Grid | None) -> Tensor:
    """Nearest rounding on the grid over all of ``x``."""
    if grid is None:
        return x
    scale, zero_point = MinMax().range(Distribution.of_tensor(x, grid.channel_axis, grid.group_size), grid).fit(grid)
    shape = grid.scale_shape(x.shape)
    return quantize_affine(x, scale.view(shape), zero_point.view(shape), grid).dequantize()


@pytest.mark.parametrize("num_large", [0, 2])
@pytest.mark.parametrize("name", list(WEIGHT_GRIDS))
def test_the_expected_error_is_the_measured_one(name: str, num_large: int, generator: torch.Generator) -> None:
    """Within a tenth: 4096 x 48 errors of the activation, taken as uniform and independent, which they are not quite; products of both
    errors, and of different channels, are left out.
    """
    x, weight = layer(generator, num_large)
    grid = UINT8 if WEIGHT_GRIDS[name] is not INT4 else None
    factor = factor_at(0.5, channels(x), [weight])
    expected = expected_error(factor, channels(x), [weight], [WEIGHT_GRIDS[name]], grid)
    found = rounded(x / factor, grid) @ rounded(weight * factor, WEIGHT_GRIDS[name]).T
    measured = float((found - x @ weight.T).square().sum(1).mean())
    assert expected == pytest.approx(measured, rel=0.1)


def test_large_channels_go_to_the_weights(generator: torch.Generator) -> None:
    x, weight = layer(generator, 2)
    factor = factor_of_least_error(channels(x), [weight], [INT8], UINT8)
    assert float((factor[:2] / factor[2:].mean()).min()) > 3


@pytest.mark.parametrize("grids", [(INT8, UINT8), (INT4, UINT8), (None, UINT8), (INT8, None), (INT8.per_tensor(), UINT8)])
def test_never_more_than_without(grids: tuple[Grid | None, Grid | None], generator: torch.Generator) -> None:
    """A channel large in the inputs and in the weights is what the square root of both cannot help; here it is left alone."""
    x, weight = layer(generator, 1)
    weight[:, 0] *= 30
    known = channels(x)

    def error(factor: Tensor) -> float:
        return expected_error(factor, known, [weight, weight[:5]], [grids[0]] * 2, grids[1])

    chosen = error(factor_of_least_error(known, [weight, weight[:5]], [grids[0]] * 2, grids[1]))
    without = error(torch.ones(48, dtype=torch.float64))
    assert chosen <= without
    assert chosen <= min(error(factor_at(alpha, known, [weight, weight[:5]])) for alpha in (0.0, 0.25, 0.5, 0.75, 1.0))


def test_in_float_nothing_is_changed(generator: torch.Generator) -> None:
    x, weight = layer(generator, 2)
    assert bool((factor_of_least_error(channels(x), [weight], [None], None) == 1).all())
