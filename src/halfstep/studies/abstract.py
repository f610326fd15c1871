"""What a study is: some settings of a table or figure of a paper, measured on one network, beside what the paper found.

Those that train with quantization in the loop (`trained_table`) have papers of their own. All figures of the others are those of ResNet-18
on ImageNet: Nagel et al. 2020, "Up or down? Adaptive rounding for post-training quantization", with 4-bit weights on a symmetric grid of
one scale a layer, activations in float, 1,024 images, five seeds.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

from halfstep.registry import Method, Registry
from halfstep.studies.laboratory import Laboratory, Measurement
from halfstep.studies.outcome import Entry, Outcome, Row, order_sentences
from halfstep.studies.settings import Cell, Settings
from halfstep.studies.statistics import mean


class AbstractStudy(Method, ABC):
    """title: of the table or figure. finding: what the paper says it shows. how: what is done here and where it differs from the paper.

    is_trained: whether networks are trained with quantization in the loop, which takes hours; such a study has bits of its own. networks:
    what it is made on where none is named; empty: two of the shared folder, or the digits network.
    """

    title: ClassVar[str]
    finding: ClassVar[str]
    how: ClassVar[str]
    is_trained: ClassVar[bool] = False
    networks: ClassVar[tuple[str, ...]] = ()

    @abstractmethod
    def run(self, laboratory: Laboratory) -> Outcome:
        """Measure everything, each figure once a seed."""

    def spent(self, settings: Settings) -> str:
        """The settings that matter to this study, in words."""
        return settings.words()

    def outcome(self, laboratory: Laboratory, columns: tuple[str, ...], rows: tuple[Row, ...]) -> Outcome:
        """An outcome without a verdict."""
        return Outcome(
            study=self.name,
            title=self.title,
            finding=self.finding,
            how=self.how,
            network=laboratory.network,
            settings=laboratory.settings,
            spent=self.spent(laboratory.settings),
            float_top1=laboratory.float_top1,
            num_images=laboratory.num_images,
            columns=columns,
            rows=rows,
            versions=laboratory.versions,
        )


class AbstractFigure(AbstractStudy):
    """A study that ends in a picture."""

    @abstractmethod
    def plot(self, outcome: Outcome, path: Path) -> None:
        """Draw what `run` found as a PNG."""


@dataclass(frozen=True)
class Line:
    """A row before it is measured; cells by column, a column without a cell stays empty."""

    label: str
    cells: Mapping[str, Cell]
    is_ours: bool = False


class AbstractTable(AbstractStudy):
    """A study that is a table of accuracies: a subclass gives the lines; the verdict is the order of the rows."""

    columns: ClassVar[tuple[str, ...]]

    @abstractmethod
    def lines(self, settings: Settings) -> list[Line]:
        """The rows, those of the paper first."""

    def run(self, laboratory: Laboratory) -> Outcome:
        """Every cell, once a seed."""
        lines = self.lines(laboratory.settings)
        measured = iter(laboratory.measure(self.name, [cell for line in lines for cell in line.cells.values()]))
        rows = []
        for line in lines:
            entries = {column: entry_of(cell, next(measured)) for column, cell in line.cells.items()}
            rows.append(Row(line.label, entries, line.is_ours))
        found = self.outcome(laboratory, self.columns, tuple(rows))
        return replace(found, verdict=tuple(order_sentences(found)))


def entry_of(cell: Cell, measured: list[Measurement]) -> Entry:
    """The figure of one cell."""
    done = [each for each in measured if each.reason is None]
    if not done:
        return Entry(published=cell.published, reason=measured[0].reason)
    return Entry(tuple(each.top1 for each in done), cell.published, mean([each.cpu_seconds for each in done]))


def place(name: str) -> tuple[int, int, str]:
    """To sort studies by: tables before figures, each by their numbers, then those with a name."""
    kind, _, number = name.partition("-")
    return (("table", "figure").index(kind), int(number), "") if number.isdigit() else (2, 0, name)


STUDIES: Registry[AbstractStudy] = Registry("study")
