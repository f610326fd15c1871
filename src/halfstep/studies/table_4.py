"""Table 4: the layer's own error, its error behind quantized layers, and its error behind the activation function.

    (21)  ||W x - W̃ x||²        + asymmetric:  ||W x - W̃ x̂||²        (25)  ||f_a(W x) - f_a(W̃ x̂)||²

Nagel et al. 2020, section 5.1.
"""

from __future__ import annotations

from typing import ClassVar, final

from halfstep.studies.abstract import STUDIES, AbstractTable, Line
from halfstep.studies.settings import Cell, Published, Settings
from halfstep.studies.table_2 import LOCAL


@final
@STUDIES.register("table-4")
class Table4(AbstractTable):
    """Layer-wise, asymmetric, and asymmetric with the activation function."""

    title: ClassVar[str] = "Table 4: asymmetric reconstruction and the activation function"
    finding: ClassVar[str] = (
        "Taking the error of the preceding layers into account helps noticeably, the activation function a little more."
    )
    how: ClassVar[str] = "As in the paper."
    columns: ClassVar[tuple[str, ...]] = ("top-1",)

    def lines(self, settings: Settings) -> list[Line]:
        """The three objectives."""
        rows: tuple[tuple[str, dict[str, bool], Published], ...] = (
            ("Layer-wise (21)", LOCAL, Published(66.56, 0.12)),
            ("Asymmetric", {"with_activation": False}, Published(68.37, 0.07)),
            ("Asymmetric + ReLU (25)", {}, Published(68.60, 0.09)),
        )
        return [Line(label, {"top-1": Cell(settings.learned("adaround", options), published)}) for label, options, published in rows]
