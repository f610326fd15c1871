"""Roundings: which code? One file each."""

from halfstep.rounding.abstract import ROUNDINGS, AbstractRounding, LayerSamples, Moments, Quadratic, RoundingProblem
from halfstep.rounding.ceil import Ceil
from halfstep.rounding.floor import Floor
from halfstep.rounding.nearest import Nearest
from halfstep.rounding.operator import LinearOperator
from halfstep.rounding.stochastic import Stochastic

__all__ = [
    "ROUNDINGS",
    "AbstractRounding",
    "Ceil",
    "Floor",
    "LayerSamples",
    "LinearOperator",
    "Moments",
    "Nearest",
    "Quadratic",
    "RoundingProblem",
    "Stochastic",
]
