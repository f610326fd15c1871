"""Table 10: solvers of the rounding QUBO (13) of the first layer.

Nagel et al. 2020, appendix A: the cross-entropy method against qbsolv, a tabu search from random choices. qbsolv is no longer maintained;
its authors' successor, dwave-samplers, stands in for it.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, ClassVar, final

from halfstep.studies.abstract import STUDIES, AbstractTable, Line
from halfstep.studies.settings import NEAREST, Cell, Published, Settings


@final
@STUDIES.register("table-10")
class Table10(AbstractTable):
    """The cross-entropy method against public QUBO solvers."""

    title: ClassVar[str] = "Table 10: QUBO solvers"
    finding: ClassVar[str] = (
        "The cross-entropy method, which starts at the probabilities of stochastic rounding, is far better than qbsolv, which "
        "cannot be given a start and ends below nearest."
    )
    how: ClassVar[str] = (
        "Only the first layer is quantized, by the task loss (13). qbsolv is no longer maintained: the tabu search of "
        "dwave-samplers, by the same authors, stands in for it. Not in the paper: the same search started at nearest, and "
        "simulated annealing."
    )
    columns: ClassVar[tuple[str, ...]] = ("top-1",)

    def lines(self, settings: Settings) -> list[Line]:
        """The paper's three rows and two of ours."""
        nearest = replace(NEAREST, only_first=True, published=Published(52.29))
        return [
            Line("Nearest", {"top-1": nearest}),
            Line("Cross-entropy method", {"top-1": Cell(settings.cross_entropy("task"), Published(68.62, 0.17), only_first=True)}),
            Line("Tabu search, random start", {"top-1": _dwave({"solver": "tabu"}, Published(41.98, 3.04))}),
            Line("Tabu search, nearest start", {"top-1": _dwave({"solver": "tabu", "start": "nearest"})}, is_ours=True),
            Line("Simulated annealing", {"top-1": _dwave({"solver": "annealing"})}, is_ours=True),
        ]


def _dwave(options: dict[str, Any], published: Published | None = None) -> Cell:
    return Cell({"qubo_dwave": {"objective": "task", **options}}, published, only_first=True)
