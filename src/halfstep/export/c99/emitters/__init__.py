"""The C of every kind of operator, found by its kind."""

from halfstep.export.c99.emitters import elementwise, matmul, movement, normalizations, pools, products, reductions
from halfstep.export.c99.emitters.abstract import EMITTERS, AbstractEmitter, Pointers, Step

__all__ = [
    "EMITTERS",
    "AbstractEmitter",
    "Pointers",
    "Step",
    "elementwise",
    "matmul",
    "movement",
    "normalizations",
    "pools",
    "products",
    "reductions",
]
