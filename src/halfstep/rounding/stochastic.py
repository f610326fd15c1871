"""Stochastic rounding: up with a probability that makes it right on average.

    codes = floor(w / s) + z + 1  with probability  p = w / s - floor(w / s),   else floor(w / s) + z

w: the weight, s: its scale, z: its zero point. Gupta et al. 2015, "Deep learning with limited numerical precision", section 3. No
deviation.
"""

from __future__ import annotations

from typing import final

import torch

from halfstep.grid import Quantized
from halfstep.rounding.abstract import ROUNDINGS, AbstractRounding, RoundingProblem


@final
@ROUNDINGS.register("stochastic")
class Stochastic(AbstractRounding):
    """Up or down at random, unbiased."""

    def round(self, problem: RoundingProblem, generator: torch.Generator) -> Quantized:
        """One code for each weight, drawn from ``generator``."""
        position = problem.position()
        below = torch.floor(position)
        drawn = torch.rand(position.shape, generator=generator, dtype=position.dtype)
        return problem.codes(below + (drawn < position - below))
