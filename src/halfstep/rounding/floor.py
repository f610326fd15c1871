"""Round down: one of the two extremes of the paper's first study (Nagel et al. 2020, Table 1).

    codes = floor(w / s) + z        clipped to the grid

w: the weight, s: its scale, z: its zero point. No deviation.
"""

from __future__ import annotations

from typing import final

import torch

from halfstep.grid import Quantized
from halfstep.rounding.abstract import ROUNDINGS, AbstractRounding, RoundingProblem


@final
@ROUNDINGS.register("floor")
class Floor(AbstractRounding):
    """The code below."""

    def round(self, problem: RoundingProblem, generator: torch.Generator) -> Quantized:
        """One code for each weight."""
        return problem.codes(torch.floor(problem.position()))
