"""GPTQ: entries are decided one after the other, and those still open make good for the error of those decided.

    for j in order:  codes_j = clip(round(u_j / s) + z)        u_j = T_j + what the open entries owe the decided ones
                     u_j = T_j - sum_{i decided} (v_i - T_i) L_ij / L_jj,    H = L Lᵀ

T: the target, W. v = s (codes - z). H: E[x̂ x̂ᵀ] plus ``damping`` times its mean diagonal. L: its Cholesky factor with the entries in the
reverse of the order they are decided in. Frantar et al. 2023, "GPTQ", decide the same codes with the Cholesky factor of the inverse of H
(Chen et al. 2025, "The geometry of LLM quantization": the algorithm is Babai's nearest plane); here no inverse is needed.
Deviations: an entry that is always 0 in the input takes the nearest code, not 0; where each group of entries has a scale, it is that of the
float weights, not of what is left of them when the pass reaches the group. Options beyond the paper: W x as the aim in place of W x̂
(``asymmetric``; Li et al. 2025, "GPTAQ"), and moments about the means with the bias corrected for it (``centred``).
"""

from __future__ import annotations

from typing import Literal, final

import torch

from halfstep.grid import Quantized
from halfstep.rounding.abstract import ROUNDINGS, RoundingProblem
from halfstep.rounding.closest_vector import AbstractClosestVector
from halfstep.solvers import beam


@final
@ROUNDINGS.register("gptq")
class GPTQ(AbstractClosestVector):
    """One pass over the entries, each error made good by those that follow. order: "diagonal", large inputs first, or "index"."""

    order: Literal["diagonal", "index"] = "diagonal"

    def round(self, problem: RoundingProblem, generator: torch.Generator) -> Quantized:
        """The codes above; raises `CalibrationError` if the moments are not finite."""
        codes = beam(self.vector(problem), 1, self.order == "diagonal")
        return problem.codes(problem.from_rows(codes.view_as(problem.rows(problem.weight))))
