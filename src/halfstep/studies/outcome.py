"""What a study found: its rows beside the paper's, as data that is written to JSON and read again."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import pydantic

from halfstep.errors import DataError
from halfstep.files import atomic_path
from halfstep.studies.settings import Published, Settings
from halfstep.studies.statistics import contradictions, deviation, mean, resolution


@dataclass(frozen=True)
class Entry:
    """One figure of a row. values: top-1 in percent, one a seed. cpu_seconds: of quantizing, the mean. reason: why there are no values."""

    values: tuple[float, ...] = ()
    published: Published | None = None
    cpu_seconds: float | None = None
    reason: str | None = None

    @property
    def mean(self) -> float | None:
        """None where there are no values."""
        return mean(self.values) if self.values else None

    @property
    def deviation(self) -> float | None:
        """Over the seeds; None where there are not two of them."""
        return deviation(self.values)


@dataclass(frozen=True)
class Row:
    """label: the paper's words for it, or ours. entries: by column. is_ours: whether the paper has no such row."""

    label: str
    entries: dict[str, Entry]
    is_ours: bool = False


@dataclass(frozen=True)
class Outcome:
    """finding: what the paper says. how: what is done here. spent: the settings that matter, in words. verdict: how the two compare.

    num_images: labelled images that every figure is measured on. decimals: digits behind the point, of columns that do not show two.
    points: for the plot, by name of the series. plot: the file name of the picture beside the JSON file.
    """

    study: str
    title: str
    finding: str
    how: str
    network: str
    settings: Settings
    spent: str
    float_top1: float
    num_images: int
    columns: tuple[str, ...]
    rows: tuple[Row, ...]
    verdict: tuple[str, ...] = ()
    decimals: dict[str, int] = field(default_factory=dict)
    points: dict[str, list[float]] = field(default_factory=dict)
    plot: str | None = None
    versions: dict[str, str] = field(default_factory=dict)

    def entry(self, label: str, column: str | None = None) -> Entry:
        """The entry of a row, by default in the first column."""
        row = next(row for row in self.rows if row.label == label)
        return row.entries[column or self.columns[0]]

    def write(self, path: Path) -> None:
        """As JSON."""
        text = pydantic.TypeAdapter(Outcome).dump_json(self, indent=1).decode() + "\n"
        with atomic_path(path) as temporary:
            temporary.write_text(text, encoding="utf-8")

    @classmethod
    def read(cls, path: Path) -> Outcome:
        """What `write` wrote; `DataError` for anything else."""
        try:
            return pydantic.TypeAdapter(Outcome).validate_json(path.read_bytes())
        except (OSError, pydantic.ValidationError) as error:
            raise DataError(f"'{path}' is not the outcome of a study as 'halfstep reproduce' writes it.") from error


def order_sentences(outcome: Outcome) -> list[str]:
    """For each column with figures of the paper: whether its rows stand in the paper's order here."""
    found = []
    for column in outcome.columns:
        known = [(row, row.entries[column]) for row in outcome.rows if column in row.entries]
        pairs = [(row.label, entry.values, entry.published.mean) for row, entry in known if entry.values and entry.published]
        if len(pairs) < 2:
            continue
        labels, ours, published = ([pair[index] for pair in pairs] for index in range(3))
        turned, undecided = contradictions(ours, published, resolution(outcome.num_images))  # type: ignore[arg-type]
        found.append(_order_sentence(column, labels, turned, undecided))  # type: ignore[arg-type]
    return found


def _order_sentence(column: str, labels: list[str], turned: list[tuple[int, int]], undecided: list[tuple[int, int]]) -> str:
    def pairs(found: list[tuple[int, int]]) -> str:
        return "; ".join(f"{labels[better]} above {labels[worse]}" for better, worse in found)

    if turned:
        sentence = f"{column}: the order of the rows differs from the paper's, which has {pairs(turned)}."
    elif undecided:
        sentence = f"{column}: no pair of rows contradicts the order of the paper."
    else:
        sentence = f"{column}: the rows stand in the order of the paper."
    if undecided:
        sentence += f" Too close to tell apart here, in the paper's order: {pairs(undecided)}."
    return sentence
