"""Round to nearest, half to even: the smallest change of each weight.

    codes = round(w / s) + z        clipped to the grid

w: the weight, s: its scale, z: its zero point. No deviation.
"""

from __future__ import annotations

from typing import final

import torch

from halfstep.grid import Quantized
from halfstep.rounding.abstract import ROUNDINGS, AbstractRounding, RoundingProblem


@final
@ROUNDINGS.register("nearest")
class Nearest(AbstractRounding):
    """The nearest code."""

    def round(self, problem: RoundingProblem, generator: torch.Generator) -> Quantized:
        """One code for each weight."""
        return problem.codes(torch.round(problem.position()))
