"""Table 6: which grid?

    min-max        min ||W - W̄||²        min ||W x - W̄ x̂||²

W̄: the weight rounded to nearest. Nagel et al. 2020, section 5.1, "Influence of quantization grid".
"""

from __future__ import annotations

from typing import ClassVar, final

from halfstep.studies.abstract import STUDIES, AbstractTable, Line
from halfstep.studies.settings import Cell, Published, Settings

_ROWS = (
    ("Min-max", "min_max", Published(0.23), Published(61.96, 0.04)),
    ("min ‖W − W̄‖²", "mse", Published(23.99), Published(68.60, 0.09)),
    ("min ‖Wx − W̄x̂‖²", "output_mse", Published(42.89), Published(68.62, 0.08)),
)


@final
@STUDIES.register("table-6")
class Table6(AbstractTable):
    """Three ways to choose the grid, each with nearest and with AdaRound."""

    title: ClassVar[str] = "Table 6: the quantization grid"
    finding: ClassVar[str] = (
        "AdaRound is far better than nearest on every grid; both grids of least squared error are better than min-max, and for "
        "AdaRound they are equally good."
    )
    how: ClassVar[str] = (
        "As in the paper. The column 'lattice' is not in the paper: it refits the scale, so that the grid it is given is only a start."
    )
    columns: ClassVar[tuple[str, ...]] = ("Nearest", "AdaRound", "lattice")

    def lines(self, settings: Settings) -> list[Line]:
        """One row a grid."""
        learned = settings.learned("adaround")
        found = []
        for label, weight_range, nearest, adaround in _ROWS:
            cells = {
                "Nearest": Cell("nearest", nearest, weight_range=weight_range, is_random=weight_range == "output_mse"),
                "AdaRound": Cell(learned, adaround, weight_range=weight_range),
                "lattice": Cell("lattice", weight_range=weight_range),
            }
            found.append(Line(label, cells))
        return found
