"""Cyclic coordinate descent: from the nearest codes, each entry in turn moves to the code that is best while all others stay.

    n_j <- clip(round(n_j - g_j / (s H_jj))),    g = (v - T) H,   v = s n        until a whole sweep moves nothing

n: codes - z. s: scale. T: the target, W. H: E[x̂ x̂ᵀ]. The error never grows. Behdin et al. 2023, "QuantEase", algorithm 1; Zhang et al.
2024, "COMQ". Deviations: every sweep is on the grid (QuantEase leaves it now and then), in the order of the entries (COMQ takes large ones
first), with the scale as it is. Options beyond the papers: W x as the aim in place of W x̂ (``asymmetric``), moments about the means with
the bias corrected for it (``centred``), a ridge on H (``damping``).
"""

from __future__ import annotations

from typing import ClassVar, final

import torch
from pydantic import Field

from halfstep.grid import Quantized
from halfstep.rounding.abstract import ROUNDINGS, AbstractRounding, RoundingProblem
from halfstep.solvers import ClosestVector, descend


@final
@ROUNDINGS.register("coordinate_descent")
class CoordinateDescent(AbstractRounding):
    """Each entry in turn to its best code. num_sweeps: at most, over all entries."""

    num_sweeps: int = Field(default=25, ge=1)
    asymmetric: bool = False
    centred: bool = False
    damping: float = Field(default=0.0, ge=0)

    uses_moments: ClassVar[bool] = True
    has_independent_rows: ClassVar[bool] = True

    @property
    def frees_bias(self) -> bool:
        """With centred moments."""
        return self.centred

    def round(self, problem: RoundingProblem, generator: torch.Generator) -> Quantized:
        """The codes after the last sweep; raises `CalibrationError` if the moments are not finite."""
        quadratic = problem.quadratic(self.asymmetric, self.centred, self.damping)
        rows = (problem.rows(part) for part in (problem.step(), *problem.limits()))
        vector = ClosestVector.of(quadratic.gram, quadratic.target, *rows)
        codes = descend(vector, vector.nearest(), self.num_sweeps)
        return problem.codes(problem.from_rows(codes.view_as(quadratic.target)))
