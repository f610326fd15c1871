"""Integer least squares: the searches behind the roundings that minimize a quadratic form. Numba is imported when one first runs."""

from halfstep.solvers.closest import ClosestVector, beam, descend, draw_kicks, kick
from halfstep.solvers.compiled import warm_up

__all__ = ["ClosestVector", "beam", "descend", "draw_kicks", "kick", "warm_up"]
