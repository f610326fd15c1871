"""The layer's error as a quadratic form, where inputs are constant or few."""

from __future__ import annotations

import pytest
import torch

from halfstep.grid import Grid
from halfstep.rounding import Moments, RoundingProblem


def moments_of(x: torch.Tensor, quantized: torch.Tensor) -> Moments:
    """With products in float32, as the step `round` takes them."""
    count = len(x)
    gram, cross = (part.mT.float() @ quantized.float() / count for part in (quantized, x))
    return Moments(gram.double()[None], cross.double()[None], quantized.double().mean(0)[None], x.double().mean(0)[None], count)


def constant_in_some_channels(num_samples: int) -> Moments:
    x = torch.randn(num_samples, 6, generator=torch.Generator().manual_seed(0))
    x[:, 1], x[:, 4] = 0.7, 301.3
    return moments_of(x + 0.01 * (x - x.mean(0)), x)


def test_what_is_constant_has_no_variance() -> None:
    """Float32 sums of a hundred equal products leave a variance of either sign, about 2^-19 of their squares."""
    gram, drift = constant_in_some_channels(100).about_means()
    assert bool((gram.diagonal(dim1=1, dim2=2) >= 0).all())
    for constant in (1, 4):
        assert not gram[0, constant].any() and not gram[0, :, constant].any() and not drift[0, :, constant].any()
    assert bool((gram[0].diagonal()[[0, 2, 3, 5]] > 0.5).all())


@pytest.mark.parametrize("num_samples", [1, 3, 100])
@pytest.mark.parametrize("damping", [0.0, 0.01])
def test_a_target_for_few_samples_and_constant_inputs(num_samples: int, damping: float) -> None:
    """Singular forms, and all zeros about the means of one sample: the aim stays finite, and W where nothing varies."""
    weight = torch.randn(4, 6, generator=torch.Generator().manual_seed(1))
    moments = constant_in_some_channels(num_samples)
    problem = RoundingProblem(weight, torch.ones(4), torch.zeros(4), Grid(4, True, True, 0), moments=moments)
    target = problem.quadratic(asymmetric=True, centred=True, damping=damping).target[0]
    assert bool(torch.isfinite(target).all())
    assert torch.allclose(target[:, [1, 4]], weight.double()[:, [1, 4]])
