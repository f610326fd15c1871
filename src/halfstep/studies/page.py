"""Outcomes as Markdown: one of them, or a whole page of those in some folders."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from halfstep.studies.abstract import STUDIES, place
from halfstep.studies.outcome import Entry, Outcome, Row


def markdown(outcome: Outcome, picture: str | None = None, level: int = 1) -> str:
    """A heading, what the paper found, the table, and how the two compare; ``picture``: where the plot lies, as a link."""
    parts = [
        f"{'#' * level} {outcome.title}",
        f"{outcome.network}, float {outcome.float_top1:.2f} % on {outcome.num_images:,} images; {outcome.spent}.",
        f"*The paper.* {outcome.finding}",
        f"*Here.* {outcome.how}",
        table(outcome),
        *_reasons(outcome),
        "\n".join(f"* {sentence}" for sentence in outcome.verdict),
    ]
    if picture is not None:
        parts.append(f"![{outcome.title}, {outcome.network}]({picture})")
    return "\n\n".join(part for part in parts if part) + "\n"


def table(outcome: Outcome) -> str:
    """Our figures beside the paper's (ResNet-18, ImageNet), and the CPU seconds of quantizing where they were taken."""
    headers, rows = cells(outcome)
    lines = [headers, ["---", *["---:"] * (len(headers) - 1)], *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def cells(outcome: Outcome) -> tuple[list[str], list[list[str]]]:
    """Headers and rows as text, for any kind of table."""
    entries = [entry for row in outcome.rows for entry in row.entries.values()]
    with_paper = [column for column in outcome.columns if any(_published(row, column) for row in outcome.rows)]
    is_timed = any(entry.cpu_seconds is not None for entry in entries)
    headers = [""]
    for column in outcome.columns:
        headers += [column, "paper"] if column in with_paper else [column]
    rows = []
    for row in outcome.rows:
        line = [f"{row.label} (not in the paper)" if row.is_ours else row.label]
        for column in outcome.columns:
            entry = row.entries.get(column)
            ours = _ours(entry, outcome.decimals.get(column, 2))
            line += [ours, _paper(entry)] if column in with_paper else [ours]
        rows.append([*line, _seconds(outcome, row)] if is_timed else line)
    return [*headers, "CPU s"] if is_timed else headers, rows


def page(outcomes: Sequence[tuple[Outcome, str | None]], introduction: str, remarks: Mapping[str, str]) -> str:
    """All outcomes with the links to their pictures, study by study; remarks: why ours differ, by the name of the study."""
    parts = [introduction.strip()]
    for study in dict.fromkeys(outcome.study for outcome, _ in outcomes):
        mine = [(outcome, link) for outcome, link in outcomes if outcome.study == study]
        first = mine[0][0]
        parts += [f"## {first.title}", f"*The paper.* {first.finding}", f"*Here.* {first.how}"]
        if study in remarks:
            parts.append(remarks[study].strip())
        for outcome, link in mine:
            parts.append(f"### {outcome.network}" + ("" if STUDIES[study].is_trained else f", {outcome.settings.bits}-bit weights"))
            parts.append(f"Float {outcome.float_top1:.2f} % on {outcome.num_images:,} images; {outcome.spent}.")
            parts += [table(outcome), *_reasons(outcome), "\n".join(f"* {sentence}" for sentence in outcome.verdict)]
            if link is not None:
                parts.append(f"![{outcome.title}, {outcome.network}]({link})")
    return "\n\n".join(part for part in parts if part) + "\n"


def read_all(folder: Path) -> list[tuple[Outcome, Path]]:
    """Every outcome below ``folder`` with the file it came from, in the order of the studies and then of the networks."""
    found = [(Outcome.read(path), path) for path in sorted(folder.glob("*/*.json"))]
    return sorted(found, key=lambda pair: _place(pair[0]))


def _place(outcome: Outcome) -> tuple[tuple[int, int, str], str, int]:
    return place(outcome.study), outcome.network, -outcome.settings.bits


def _published(row: Row, column: str) -> bool:
    return column in row.entries and row.entries[column].published is not None


def _ours(entry: Entry | None, decimals: int) -> str:
    if entry is None:
        return ""
    return "not run" if entry.mean is None else number(entry.mean, entry.deviation, decimals)


def _paper(entry: Entry | None) -> str:
    return "" if entry is None or entry.published is None else number(entry.published.mean, entry.published.deviation)


def number(mean: float, deviation: float | None, decimals: int = 2) -> str:
    """``69.39 ± 0.04``, or the mean alone."""
    return f"{mean:,.{decimals}f}" if deviation is None else f"{mean:,.{decimals}f} ± {deviation:,.{decimals}f}"


def _seconds(outcome: Outcome, row: Row) -> str:
    times = [row.entries[column].cpu_seconds for column in outcome.columns if column in row.entries]
    return " / ".join("–" if seconds is None else f"{seconds:.1f}" for seconds in times)


def _reasons(outcome: Outcome) -> list[str]:
    """Why rows were not run, each reason once."""
    missing = {entry.reason: row.label for row in outcome.rows for entry in row.entries.values() if entry.reason is not None}
    return [f"Not run: {label}. {reason}" for reason, label in missing.items()]
