"""Cyclic coordinate descent: from the nearest codes, each entry in turn moves to the code that is best while all others stay.

    n_j <- clip(round(n_j - g_j / (s H_jj))),    g = (v - T) H,   v = s n        until a whole sweep moves nothing

n: codes - z. s: scale. T: the target, W. H: E[x̂ x̂ᵀ]. The error never grows. Behdin et al. 2023, "QuantEase", algorithm 1; Zhang et al.
2024, "COMQ". Deviations: every sweep is on the grid (QuantEase leaves it now and then), in the order of the entries (COMQ takes large ones
first), with the scale as it is. Options beyond the papers: W x as the aim in place of W x̂ (``asymmetric``), moments about the means with
the bias corrected for it (``centred``), a ridge on H (``damping``).
"""

from __future__ import annotations

from typing import final

import torch
from pydantic import Field

from halfstep.grid import Quantized
from halfstep.rounding.abstract import ROUNDINGS, RoundingProblem
from halfstep.rounding.closest_vector import AbstractClosestVector
from halfstep.solvers import descend


@final
@ROUNDINGS.register("coordinate_descent")
class CoordinateDescent(AbstractClosestVector):
    """Each entry in turn to its best code. num_sweeps: at most, over all entries."""

    num_sweeps: int = Field(default=25, ge=1)
    damping: float = Field(default=0.0, ge=0)

    def round(self, problem: RoundingProblem, generator: torch.Generator) -> Quantized:
        """The codes after the last sweep; raises `CalibrationError` if the moments are not finite."""
        vector = self.vector(problem)
        codes = descend(vector, vector.nearest(), self.num_sweeps)
        return problem.codes(problem.from_rows(codes.view_as(problem.rows(problem.weight))))
