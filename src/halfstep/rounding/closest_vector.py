"""What roundings share that see a layer as a closest vector problem: its options, and the problem as the solvers take it."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field

from halfstep.rounding.abstract import AbstractRounding, RoundingProblem
from halfstep.solvers import ClosestVector


class AbstractClosestVector(AbstractRounding):
    """asymmetric: whether W x of the float network is the aim, or W x̂. centred: whether moments are taken about the means and the bias is
    corrected for it. damping: share of the mean diagonal of E[x̂ x̂ᵀ] that is added to the diagonal.
    """

    asymmetric: bool = False
    centred: bool = False
    damping: float = Field(default=0.01, ge=0)

    uses_moments: ClassVar[bool] = True
    has_independent_rows: ClassVar[bool] = True

    @property
    def frees_bias(self) -> bool:
        """With centred moments."""
        return self.centred

    def vector(self, problem: RoundingProblem) -> ClosestVector:
        """The problem of all rows [N, d]; raises `CalibrationError` if the moments are not finite."""
        quadratic = problem.quadratic(self.asymmetric, self.centred, self.damping)
        rows = (problem.rows(part) for part in (problem.step(), *problem.limits()))
        return ClosestVector.of(quadratic.gram, quadratic.target, *rows)
