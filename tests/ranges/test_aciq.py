"""Analytic clipping: the paper's table, the true optimum by search, and which density is taken."""

from __future__ import annotations

import math

import pytest
import torch

from halfstep.grid import Grid
from halfstep.ranges import AnalyticClipping, Distribution
from halfstep.ranges.aciq import gauss_reach, laplace_reach

NUM = 200_000


@pytest.mark.parametrize(
    ("bits", "laplace", "gauss"),
    [(2, 2.83, 1.71), (3, 3.89, 2.15), (4, 5.03, 2.55)],  # section 2 of the paper, which cuts to two digits
)
def test_the_papers_table(bits: int, laplace: float, gauss: float) -> None:
    assert laplace_reach(2**bits) == pytest.approx(laplace, abs=0.01)
    assert gauss_reach(2**bits) == pytest.approx(gauss, abs=0.01)


@pytest.mark.parametrize("num_levels", [4, 15, 16, 256, 65536])
def test_it_is_the_minimum_of_the_expected_error(num_levels: int) -> None:
    def laplace(a: float) -> float:
        return 2 * math.exp(-a) + a * a / (3 * num_levels**2)

    def gauss(a: float) -> float:
        clipped = (a * a + 1) * math.erfc(a / math.sqrt(2)) - math.sqrt(2 / math.pi) * a * math.exp(-a * a / 2)
        return clipped + a * a / (3 * num_levels**2)

    for error, best in ((laplace, laplace_reach(num_levels)), (gauss, gauss_reach(num_levels))):
        assert all(error(best) < error(best * factor) for factor in (0.9, 0.99, 1.01, 1.1))


def drawn(density: str, generator: torch.Generator) -> torch.Tensor:
    if density == "gauss":
        return torch.randn(NUM, generator=generator) * 3
    uniform = torch.rand(NUM, generator=generator) - 0.5
    return -3 * uniform.sign() * torch.log1p(-2 * uniform.abs())


# b and s are estimated from NUM values, to within 1 / sqrt(NUM) = 0.2 % times a factor near 1: five deviations are 1.2 %.
@pytest.mark.parametrize(("density", "reach"), [("laplace", laplace_reach), ("gauss", gauss_reach)])
def test_the_likelier_density_on_two_sides(density: str, reach: object, generator: torch.Generator) -> None:
    x = drawn(density, generator)
    for grid in (Grid(4, True), Grid(4, False, False)):
        found = AnalyticClipping().range(Distribution.of_tensor(x), grid)
        assert float(found.maximum) == pytest.approx(3 * reach(16), rel=0.02)  # type: ignore[operator]
        assert float(found.minimum) == pytest.approx(-3 * reach(16), rel=0.02)  # type: ignore[operator]
        named = AnalyticClipping(density=density).range(Distribution.of_tensor(x), grid)  # type: ignore[arg-type]
        assert float(named.maximum) == float(found.maximum)


@pytest.mark.parametrize(("density", "reach"), [("laplace", laplace_reach), ("gauss", gauss_reach)])
def test_behind_a_relu_all_levels_are_on_one_side(density: str, reach: object, generator: torch.Generator) -> None:
    x = drawn(density, generator).relu()
    found = AnalyticClipping().range(Distribution.of_tensor(x), Grid(4, False, False))
    assert float(found.minimum) == 0
    assert float(found.maximum) == pytest.approx(3 * reach(32), rel=0.02)  # type: ignore[operator]
    mirrored = AnalyticClipping().range(Distribution.of_tensor(-x), Grid(4, False, False))
    assert float(mirrored.minimum) == -float(found.maximum) and float(mirrored.maximum) == 0
    signed = AnalyticClipping().range(Distribution.of_tensor(x), Grid(4, True))  # half of its levels
    assert float(signed.maximum) == pytest.approx(3 * reach(16), rel=0.02)  # type: ignore[operator]


def test_a_mean_other_than_zero(generator: torch.Generator) -> None:
    x = torch.randn(NUM, generator=generator) + 1
    free = AnalyticClipping().range(Distribution.of_tensor(x), Grid(4, False, False))
    assert float(free.maximum + free.minimum) / 2 == pytest.approx(1, abs=0.02)
    symmetric = AnalyticClipping(density="gauss").range(Distribution.of_tensor(x), Grid(4, True))
    assert float(symmetric.maximum) == pytest.approx(gauss_reach(16) * 2**0.5, rel=0.02)  # E[x^2] = 1 + 1
    assert float(symmetric.minimum) == float(x.min()) > -float(symmetric.maximum)  # never beyond the extremes


def test_near_the_best_range_by_search(generator: torch.Generator) -> None:
    """The squared error of real rounding with the analytic range is within 5 % of the best one: what the formula leaves out."""
    x, grid = drawn("laplace", generator), Grid(4, True)

    def error(reach: float) -> float:
        scale = reach / 7.5
        return float((x - (x / scale).round().clamp(-8, 7) * scale).square().mean())

    found = float(AnalyticClipping().range(Distribution.of_tensor(x), grid).maximum)
    assert error(found) <= 1.05 * min(error(3 * factor / 10) for factor in range(20, 120))


def test_an_unknown_density_is_refused() -> None:
    with pytest.raises(ValueError, match="density"):
        AnalyticClipping(density="cauchy")  # type: ignore[arg-type]
