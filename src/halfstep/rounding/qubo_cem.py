"""The rounding QUBO by the cross-entropy method: sample choices, keep the best, sample nearer to them.

    P(b_i = 1) = p_i,  p_i = w_i / s - floor(w_i / s) at first
    each round:  draw N times b,  E = the ceil(rho N) draws of least cost,  p <- (1 - alpha) p + alpha mean of E

b: up or down for each weight, and its cost: see `qubo`. N: ``num_samples``. rho: ``elite_share``. alpha: ``smoothing``, the weight of
the new. It ends for a row of weights when every p is within ``tolerance`` of 0 or 1, or after ``num_rounds``; the best b drawn is taken.

Rubinstein 1999, "The cross-entropy method for combinatorial and continuous optimization"; Nagel et al. 2020, "Up or down? Adaptive
rounding for post-training quantization", sections 3.1 and 5.1, who start at the probabilities of stochastic rounding (Gupta et al. 2015).
Deviations: nearest rounding counts as drawn once, so that the outcome is never worse; the rows of a layer, which are separate problems
for the local error, look at the same random numbers, so that the outcome does not depend on how they are shared out. The paper does not
give N, rho, alpha or when to end: the defaults are measured.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import final

import torch
from jaxtyping import Bool, Float
from pydantic import Field
from torch import Tensor

from halfstep.rounding.abstract import ROUNDINGS, RoundingProblem
from halfstep.rounding.qubo import AbstractQubo, Qubo

_CHUNK = 1 << 24  # sampled choices held at once: 64 MB for each of the three tensors


@final
@ROUNDINGS.register("qubo_cem")
class QuboCrossEntropy(AbstractQubo):
    """Cross-entropy method on the paper's QUBO. num_samples, elite_share, smoothing, num_rounds: see the paper of Rubinstein."""

    num_samples: int = Field(default=1024, ge=2)
    elite_share: float = Field(default=0.02, gt=0, le=1)
    smoothing: float = Field(default=0.1, gt=0, le=1)
    num_rounds: int = Field(default=500, ge=1)
    tolerance: float = Field(default=0.01, gt=0, lt=0.5)

    def solve(self, qubo: Qubo, problem: RoundingProblem, generator: torch.Generator) -> Bool[Tensor, "G R n"]:
        """The best choices drawn."""
        seed = int(torch.randint(2**62, (), generator=generator))
        best, done = qubo.nearest(), 0
        for part in self._parts(qubo.offset.shape):
            best[part] = self._search(Qubo(qubo.gram[part[0]], qubo.offset[part], qubo.width[part], qubo.fraction[part]), seed)
            done += best[part].shape[0] * best[part].shape[1]
            problem.progress(done / (best.shape[0] * best.shape[1]))
        return best

    def _parts(self, shape: torch.Size) -> Iterator[tuple[slice, slice]]:
        """Groups and rows that are searched at once, so that memory is bounded."""
        num_groups, num_rows, num_choices = shape
        at_once = max(1, _CHUNK // (self.num_samples * num_choices))
        groups_at_once = max(1, at_once // num_rows)
        for group in range(0, num_groups, groups_at_once):
            for row in range(0, num_rows, at_once):
                yield slice(group, group + groups_at_once), slice(row, row + at_once)

    def _search(self, qubo: Qubo, seed: int) -> Bool[Tensor, "G R n"]:
        generator = torch.Generator().manual_seed(seed)
        device, num_choices, num_elite = qubo.gram.device, qubo.gram.shape[-1], math.ceil(self.elite_share * self.num_samples)
        probability, best = qubo.fraction.float(), qubo.nearest()
        least = qubo.cost(best)
        gram, offset, width = qubo.gram.float(), qubo.offset.float()[:, :, None], qubo.width.float()[:, :, None]
        for _ in range(self.num_rounds):
            is_open = (torch.minimum(probability, 1 - probability) > self.tolerance).any(-1)
            if not bool(is_open.any()):
                break
            drawn = torch.rand(self.num_samples, num_choices, generator=generator).to(device)
            choices = drawn < probability[:, :, None]  # [G, R, N, n]
            elite = _take(choices, _cost(gram, offset + width * choices).topk(num_elite, largest=False, sorted=True).indices)
            best, least = _better(qubo, best, least, elite[:, :, 0], is_open)
            moved = (1 - self.smoothing) * probability + self.smoothing * elite.float().mean(2)
            probability = torch.where(is_open[..., None], moved, probability)
        return best


def _cost(gram: Float[Tensor, "G n n"], error: Float[Tensor, "G R N n"]) -> Float[Tensor, "G R N"]:
    """What each sample costs: one product with the matrix for all rows and samples of a group."""
    flat = error.flatten(1, 2)
    return ((flat @ gram) * flat).sum(-1).view(error.shape[:3])


def _take(choices: Bool[Tensor, "G R N n"], indices: Tensor) -> Bool[Tensor, "G R E n"]:
    """The samples at ``indices`` [G, R, E]."""
    return choices.gather(2, indices[..., None].expand(*indices.shape, choices.shape[-1]))


def _better(
    qubo: Qubo, best: Bool[Tensor, "G R n"], least: Float[Tensor, "G R"], found: Bool[Tensor, "G R n"], is_open: Bool[Tensor, "G R"]
) -> tuple[Bool[Tensor, "G R n"], Float[Tensor, "G R"]]:
    """(best, least cost) after ``found`` was drawn, compared in float64."""
    cost = qubo.cost(found)
    is_better = is_open & (cost < least)
    return torch.where(is_better[..., None], found, best), torch.where(is_better, cost, least)
