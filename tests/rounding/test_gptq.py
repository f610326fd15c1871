"""The same codes as the algorithm of the paper, with the inverse of H."""

from __future__ import annotations

import pytest
import torch

from halfstep.grid import Grid
from halfstep.rounding import GPTQ, LinearOperator, Moments, RoundingProblem


def problem(generator: torch.Generator, size: int = 90) -> RoundingProblem:
    weight = torch.randn(7, size, generator=generator)
    inputs = torch.randn(4 * size, size, generator=generator, dtype=torch.float64)
    inputs = inputs @ (torch.eye(size, dtype=torch.float64) + torch.randn(size, size, generator=generator, dtype=torch.float64) / 5) + 0.3
    gram, mean = (inputs.T @ inputs / len(inputs))[None], inputs.mean(0)[None]
    scale = weight.abs().amax(1) / 3
    return RoundingProblem(
        weight, scale, torch.zeros(7), Grid(3, True, True, 0), LinearOperator(), moments=Moments(gram, gram, mean, mean, len(inputs))
    )


def published(problem: RoundingProblem, order: torch.Tensor) -> torch.Tensor:
    """Frantar et al. 2023, algorithm 1, a column at a time: U = cholesky(H^-1)ᵀ, w_i -= (w_j - q_j) U_ji / U_jj."""
    assert problem.moments is not None
    gram = problem.moments.gram[0] + 0.01 * problem.moments.gram[0].diagonal().mean() * torch.eye(problem.weight.shape[1])
    upper = torch.linalg.cholesky(torch.linalg.inv(gram[order][:, order]), upper=True)
    weight, scale, codes = problem.weight.double()[:, order], problem.scale.double(), torch.zeros_like(problem.weight)
    for j in range(len(order)):
        codes[:, order[j]] = torch.clamp(torch.round(weight[:, j] / scale), -4, 3).float()
        error = (weight[:, j] - codes[:, order[j]] * scale) / upper[j, j]
        weight[:, j + 1 :] -= error[:, None] * upper[j, j + 1 :]
    return codes


def test_the_published_algorithm(generator: torch.Generator) -> None:
    task = problem(generator)
    assert task.moments is not None
    by_size = task.moments.gram[0].diagonal().argsort(descending=True)
    assert torch.equal(GPTQ(order="index").round(task, generator).codes, published(task, torch.arange(90)))
    assert torch.equal(GPTQ().round(task, generator).codes, published(task, by_size))


def test_the_bias_is_free_only_with_centred_moments(generator: torch.Generator) -> None:
    task = problem(generator)
    assert not GPTQ().frees_bias and GPTQ(centred=True).frees_bias
    assert not torch.equal(GPTQ().round(task, generator).codes, GPTQ(centred=True).round(task, generator).codes)


def test_without_moments_it_says_so(generator: torch.Generator) -> None:
    task = RoundingProblem(torch.ones(2, 2), torch.tensor(1.0), torch.tensor(0.0), Grid(4, True))
    with pytest.raises(ValueError, match="moments"):
        GPTQ().round(task, generator)
