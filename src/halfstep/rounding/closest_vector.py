"""What roundings share that see a layer as a closest vector problem: its options, and the problem as the solvers take it."""

from __future__ import annotations

from typing import Annotated, ClassVar

from pydantic import Field

from halfstep.rounding.abstract import AbstractRounding, RoundingProblem
from halfstep.rounding.held_out import closest_vector, held_out_damping
from halfstep.solvers import ClosestVector


class AbstractClosestVector(AbstractRounding):
    """asymmetric: whether W x of the float network is the aim, or W x̂. centred: whether moments are taken about the means and the bias is
    corrected for it. damping: share of the mean diagonal of E[x̂ x̂ᵀ] that is added to the diagonal; None: found on samples that are held
    out (`held_out`).
    """

    asymmetric: bool = False
    centred: bool = False
    damping: Annotated[float, Field(ge=0)] | None = 0.01

    uses_moments: ClassVar[bool] = True
    has_independent_rows: ClassVar[bool] = True

    @property
    def frees_bias(self) -> bool:
        """With centred moments."""
        return self.centred

    def vector(self, problem: RoundingProblem) -> ClosestVector:
        """The problem of all rows [N, d]; raises `CalibrationError` if the moments are not finite."""
        given = self.damping
        damping = held_out_damping(problem, self.asymmetric, self.centred) if given is None else given
        return closest_vector(problem, self.asymmetric, self.centred, damping)
