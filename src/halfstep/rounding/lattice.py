"""Lattice: codes as the closest vector of a bounded lattice, searched in four ways, with the scale and the bias in closed form.

    min over codes, s and b of  E || W x + b_float - s (codes - z) x̂ - b ||^2  =  min  (s n - T) H (s n - T)ᵀ + constant

n: codes - z, integers within their limits. H: E[x̂ x̂ᵀ] about the means, plus ``damping`` (found on held-out samples, `held_out`) times its
mean diagonal. T: the row that does best without a grid (`RoundingProblem.quadratic`). b: free, so it becomes b_float + W E[x] - s n E[x̂].
With the effort's K and number of kicks:

1. start: the best of coordinate descent from the nearest codes, from Babai's, and from K-best over the Cholesky factor of H;
2. scale: s <- (n H Tᵀ) / (n H nᵀ), sums over the rows that share it, or one after the other where a row has a scale for each group of its
   entries (`scale_refit`), then coordinate descent with the new s, in turn;
3. kicks: an entry moves by one step against its gain, the best replies follow, and all of it stays if the error became smaller;
4. scale again, then the second half of the kicks, and the scale a last time.

Every step leaves the error as it is or makes it smaller, so at any effort above 0 the result is never worse than nearest, `gptq` or
`coordinate_descent` are on the same problem. The searches are known: Babai 1986 and Guo and Nilsson 2006 (K-best), Frantar et al. 2023
(GPTQ is Babai's), Behdin et al. 2023 (coordinate descent), Zhang et al. 2024 (COMQ, the scale), Lourenço et al. 2003 (iterated local
search), Li et al. 2025 (GPTAQ, the asymmetric target). Their combination on one form, with free bias, is this file.

Cost of a layer of R rows and d entries on one core, about: d^3 / 3 for the factor, R d^2 (K + 12) for the start and the products that keep
the slope exact, and 5 R d passes a kick; effort 3 takes a fifth of a second for 64 x 576.
"""

from __future__ import annotations

from typing import Annotated, final

import torch
from pydantic import Field
from torch import Tensor

from halfstep.grid import Quantized
from halfstep.rounding.abstract import ROUNDINGS, RoundingProblem
from halfstep.rounding.closest_vector import AbstractClosestVector
from halfstep.rounding.scale_refit import refit_for
from halfstep.solvers import ClosestVector, beam, descend, draw_kicks, kick

EFFORTS = ((0, 0), (1, 0), (4, 100), (16, 300), (32, 1000), (64, 3000))  # K and kicks a row
NUM_REFITS = 3  # of the scale after the start; it moves little afterwards


@final
@ROUNDINGS.register("lattice")
class Lattice(AbstractClosestVector):
    """Closest vector by K-best, coordinate descent and kicks; scale and bias in closed form. effort: 0, nearest, to 5."""

    damping: Annotated[float, Field(ge=0)] | None = None
    effort: int = Field(default=3, ge=0, le=5)
    asymmetric: bool = True
    centred: bool = True
    refit_scale: bool = True

    def round(self, problem: RoundingProblem, generator: torch.Generator) -> Quantized:
        """The best codes found, and the scale that is best for them; raises `CalibrationError` if the moments are not finite."""
        seed = int(torch.randint(1 << 31, (), generator=generator, device=generator.device))
        vector, shape = self.vector(problem), problem.rows(problem.weight).shape
        if self.effort == 0:
            return problem.codes(problem.from_rows(vector.nearest().view(shape)))
        start = _start(vector, EFFORTS[self.effort][0])
        problem.progress(0.3)
        codes, scale = self._searched(problem, vector, start, seed)
        return problem.codes(problem.from_rows(codes.view(shape)), scale)

    def _searched(self, problem: RoundingProblem, vector: ClosestVector, start: Tensor, seed: int) -> tuple[Tensor, Tensor]:
        """Steps 2 to 4: codes and scale; those of the start where float32 lost more on the way than the steps gained."""
        refit = refit_for(problem) if self.refit_scale else None
        codes, scale, first, num_kicks = start, problem.scale, vector, EFFORTS[self.effort][1]
        for _ in range(NUM_REFITS):
            if refit is not None:
                vector, scale = refit.refitted(problem, vector, codes, scale)
                codes = descend(vector, codes)
        rows = problem.row_offset + torch.arange(len(codes), device=codes.device)
        for half in range(2 if num_kicks else 0):
            codes = kick(vector, codes, draw_kicks(seed, rows, codes.shape[1], half * (num_kicks // 2), num_kicks // 2))
            problem.progress(0.6 + 0.35 * half)
            if refit is not None:
                vector, scale = refit.refitted(problem, vector, codes, scale)
                codes = descend(vector, codes)
        before, after = first.error(start), vector.error(codes)
        if problem.scale.ndim == 0:
            before, after = (problem.gather(error).sum().expand(len(codes)) for error in (before, after))
        is_worse = after > before
        if refit is not None:
            scale = refit.undone(problem, scale, is_worse)
        return torch.where(is_worse[:, None], start, codes), scale


def _start(vector: ClosestVector, width: int) -> Tensor:
    """The best of each row of what coordinate descent makes of the nearest codes, Babai's and those of the beam."""
    starts = [vector.nearest(), *(beam(vector, size) for size in sorted({1, width}))]
    ends = [descend(vector, start) for start in starts]
    best = torch.stack([vector.error(end) for end in ends]).argmin(0)
    return torch.stack(ends)[best, torch.arange(len(best), device=best.device)]
