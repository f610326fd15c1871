"""Table 5: straight-through optimization of the weights against AdaRound.

Nagel et al. 2020, section 5.1, "Optimization using STE": the straight-through estimator minimizes (21), AdaRound (25).
"""

from __future__ import annotations

from dataclasses import replace
from typing import ClassVar, final

from halfstep.studies.abstract import STUDIES, AbstractTable, Line
from halfstep.studies.settings import NEAREST, Cell, Published, Settings
from halfstep.studies.table_2 import LOCAL


@final
@STUDIES.register("table-5")
class Table5(AbstractTable):
    """Nearest, the straight-through estimator, and AdaRound."""

    title: ClassVar[str] = "Table 5: the straight-through estimator"
    finding: ClassVar[str] = (
        "AdaRound clearly outperforms straight-through optimization, although that may move a weight by any number of steps."
    )
    how: ClassVar[str] = (
        "As in the paper, whose straight-through estimator has the objective (21) and whose AdaRound has (25). Not in the paper: "
        "the estimator with the objective of AdaRound, and 'lattice', which also moves weights by any number of steps."
    )
    columns: ClassVar[tuple[str, ...]] = ("top-1",)

    def lines(self, settings: Settings) -> list[Line]:
        """The paper's rows and two of ours."""
        return [
            Line("Nearest", {"top-1": replace(NEAREST, published=Published(23.99))}),
            Line("Straight-through estimator (21)", {"top-1": Cell(settings.learned("ste", LOCAL), Published(66.63, 0.06))}),
            Line("AdaRound", {"top-1": Cell(settings.learned("adaround"), Published(68.60, 0.09))}),
            Line("Straight-through estimator (25)", {"top-1": Cell(settings.learned("ste"))}, is_ours=True),
            Line("lattice", {"top-1": Cell("lattice")}, is_ours=True),
        ]
