"""Roundings: which code? One file each."""

from halfstep.rounding.abstract import ROUNDINGS, AbstractRounding, LayerSamples, Moments, Quadratic, RoundingProblem
from halfstep.rounding.acceptance import accepted, bias_shift, is_many, mixed
from halfstep.rounding.adaround import AdaRound
from halfstep.rounding.ceil import Ceil
from halfstep.rounding.coordinate_descent import CoordinateDescent
from halfstep.rounding.floor import Floor
from halfstep.rounding.gptq import GPTQ
from halfstep.rounding.lattice import Lattice
from halfstep.rounding.nearest import Nearest
from halfstep.rounding.operator import LinearOperator
from halfstep.rounding.qubo_cem import QuboCrossEntropy
from halfstep.rounding.qubo_dwave import QuboDwave
from halfstep.rounding.ste import StraightThrough
from halfstep.rounding.stochastic import Stochastic

__all__ = [
    "GPTQ",
    "ROUNDINGS",
    "AbstractRounding",
    "AdaRound",
    "Ceil",
    "CoordinateDescent",
    "Floor",
    "Lattice",
    "LayerSamples",
    "LinearOperator",
    "Moments",
    "Nearest",
    "Quadratic",
    "QuboCrossEntropy",
    "QuboDwave",
    "RoundingProblem",
    "Stochastic",
    "StraightThrough",
    "accepted",
    "bias_shift",
    "is_many",
    "mixed",
]
