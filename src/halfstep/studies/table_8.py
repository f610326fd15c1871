"""Table 8: AdaRound against empirical bias correction.

    b <- b + E[W x] - E[W̄ x̂]

Nagel et al. 2019, "Data-free quantization through weight equalization and bias correction", equation 14, as compared in Nagel et al. 2020,
section 5.2.
"""

from __future__ import annotations

from dataclasses import replace
from typing import ClassVar, final

from halfstep.studies.abstract import STUDIES, AbstractTable, Line
from halfstep.studies.settings import NEAREST, Cell, Published, Settings


@final
@STUDIES.register("table-8")
class Table8(AbstractTable):
    """Nearest, nearest with empirical bias correction, and AdaRound."""

    title: ClassVar[str] = "Table 8: empirical bias correction"
    finding: ClassVar[str] = "Bias correction improves nearest rounding, but at 4 bits AdaRound recovers far more."
    how: ClassVar[str] = (
        "As in the paper: the mean of every layer's output is corrected on the calibration images after rounding to nearest."
    )
    columns: ClassVar[tuple[str, ...]] = ("top-1",)

    def lines(self, settings: Settings) -> list[Line]:
        """The three methods."""
        return [
            Line("Nearest", {"top-1": replace(NEAREST, published=Published(23.99))}),
            Line("Empirical bias correction", {"top-1": Cell("nearest", Published(38.87), then=("correct_bias",))}),
            Line("AdaRound", {"top-1": Cell(settings.learned("adaround"), Published(68.60, 0.09))}),
            Line("lattice", {"top-1": Cell("lattice")}, is_ours=True),
        ]
