"""Table 2: from the task loss to the local loss to its continuous relaxation.

    (13)  ΔwᵀHΔw  by the cross-entropy method      (20)  E[(ΔW x)²]  by the cross-entropy method      (21)  the same, relaxed

Nagel et al. 2020, section 5.1.
"""

from __future__ import annotations

from typing import ClassVar, final

from halfstep.registry import Spec
from halfstep.studies.abstract import STUDIES, AbstractTable, Line
from halfstep.studies.settings import Cell, Published, Settings

FIRST, ALL = "first layer", "all layers"
LOCAL = {"is_asymmetric": False, "with_activation": False}
"""Options of a learned rounding for the objective (21)."""


@final
@STUDIES.register("table-2")
class Table2(AbstractTable):
    """The approximations on the way from the task loss to AdaRound."""

    title: ClassVar[str] = "Table 2: task loss, local loss, continuous relaxation"
    finding: ClassVar[str] = (
        "Rounding by the second derivative of the task loss (13) is far better than nearest; the local loss (20) is no worse and "
        "can be used on all layers; its continuous relaxation (21) is slightly better still and takes minutes instead of hours."
    )
    how: ClassVar[str] = (
        "As in the paper; H by Gauss-Newton, which needs no labels. The moments of (20) are averaged over 16 sampled output "
        "positions an image. The row 'lattice' is not in the paper: every integer step is allowed, scale and bias are refitted."
    )
    columns: ClassVar[tuple[str, ...]] = (FIRST, ALL)

    def lines(self, settings: Settings) -> list[Line]:
        """Nearest, three objectives, and the lattice solver."""
        relaxed = settings.learned("adaround", LOCAL)
        return [
            Line("Nearest", _both("nearest", Published(52.29), Published(23.99), is_random=False)),
            Line("Task loss (13), cross-entropy method", {FIRST: _first(settings.cross_entropy("task"), Published(68.62, 0.17))}),
            Line(
                "Local loss (20), cross-entropy method",
                _both(settings.cross_entropy("local"), Published(69.39, 0.04), Published(65.83, 0.14)),
            ),
            Line("Continuous relaxation (21)", _both(relaxed, Published(69.58, 0.03), Published(66.56, 0.12))),
            Line("lattice", _both("lattice"), is_ours=True),
        ]


def _first(method: Spec, published: Published | None = None, is_random: bool = True) -> Cell:
    return Cell(method, published, only_first=True, is_random=is_random)


def _both(method: Spec, first: Published | None = None, every: Published | None = None, is_random: bool = True) -> dict[str, Cell]:
    return {FIRST: _first(method, first, is_random), ALL: Cell(method, every, is_random=is_random)}
