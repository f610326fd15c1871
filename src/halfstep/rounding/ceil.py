"""Round up: the other extreme of the paper's first study (Nagel et al. 2020, Table 1).

    codes = ceil(w / s) + z        clipped to the grid

w: the weight, s: its scale, z: its zero point. No deviation.
"""

from __future__ import annotations

from typing import final

import torch

from halfstep.grid import Quantized
from halfstep.rounding.abstract import ROUNDINGS, AbstractRounding, RoundingProblem


@final
@ROUNDINGS.register("ceil")
class Ceil(AbstractRounding):
    """The code above."""

    def round(self, problem: RoundingProblem, generator: torch.Generator) -> Quantized:
        """One code for each weight."""
        return problem.codes(torch.ceil(problem.position()))
