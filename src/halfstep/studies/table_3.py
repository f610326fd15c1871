"""Table 3: what drives h(V) to 0 or 1.

    σ(V / T), T lowered        σ(V) with f_reg (24)        the rectified sigmoid (23) with f_reg

Nagel et al. 2020, section 5.1, "Design choices for AdaRound"; all of them minimize (21).
"""

from __future__ import annotations

from typing import ClassVar, final

from halfstep.studies.abstract import STUDIES, AbstractTable, Line
from halfstep.studies.settings import Cell, Published, Settings
from halfstep.studies.table_2 import ALL, FIRST, LOCAL

_ROWS = (
    ("Sigmoid, temperature annealing", "temperature", Published(69.31, 0.21), Published(65.22, 0.67)),
    ("Sigmoid + f_reg", "sigmoid", Published(69.51, 0.06), Published(66.25, 0.15)),
    ("Rectified sigmoid + f_reg", "rectified_sigmoid", Published(69.58, 0.03), Published(66.56, 0.12)),
)


@final
@STUDIES.register("table-3")
class Table3(AbstractTable):
    """Temperature annealing, sigmoid and rectified sigmoid."""

    title: ClassVar[str] = "Table 3: the relaxation"
    finding: ClassVar[str] = (
        "An explicit regularization is better than temperature annealing, even after an extensive search for its schedule, and "
        "more stable; the rectified sigmoid is slightly better than the sigmoid."
    )
    how: ClassVar[str] = "As in the paper, with the default temperature schedule of 'adaround': no search was made for a better one."
    columns: ClassVar[tuple[str, ...]] = (FIRST, ALL)

    def lines(self, settings: Settings) -> list[Line]:
        """The three relaxations."""
        found = []
        for label, relaxation, first, every in _ROWS:
            method = settings.learned("adaround", {**LOCAL, "relaxation": relaxation})
            found.append(Line(label, {FIRST: Cell(method, first, only_first=True), ALL: Cell(method, every)}))
        return found
