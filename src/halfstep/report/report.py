"""A finished run as something to print, to open in a browser and to process further."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from halfstep.digests import note_written
from halfstep.report.record import LayerFigures, RunRecord
from halfstep.report.table import summary, to_text
from halfstep.report.write import write_html, write_json


@dataclass(frozen=True)
class Report:
    """``str(report)`` is the printed table."""

    record: RunRecord
    figures: Mapping[str, LayerFigures]

    def __str__(self) -> str:
        return to_text(summary(self.record))

    def html(self, path: str | Path) -> None:
        """Write the whole report as one self-contained page."""
        write_html(self.record, self.figures, Path(path))
        note_written(path)

    def json(self, path: str | Path) -> None:
        """Write ``result.json``."""
        write_json(self.record, Path(path))
        note_written(path)
