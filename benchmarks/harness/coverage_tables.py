"""The stored rows of the coverage benchmark as text: an outcome a model, and the tables of docs/coverage.md."""

import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.coverage_models import MODELS, STAGES, SUITES

_OF_ONNX = ("torch.onnx", "import")
SHOWN = ("capture", "quantize", "simulate", "export", "runtime")
_MARKS = re.compile(r"(<!-- results: benchmarks/model_coverage.py -->\n).*?(<!-- /results -->)", re.DOTALL)


@dataclass(frozen=True)
class Outcome:
    """failed_stage: the first stage that failed; None where none did."""

    failed_stage: str | None
    reason: str
    is_clear: bool

    @property
    def has_failed(self) -> bool:
        return self.failed_stage is not None

    @property
    def text(self) -> str:
        return "passed" if self.failed_stage is None else f"{self.failed_stage}: {self.reason}"


def outcome(name: str, row: dict[str, Any]) -> Outcome:
    """What became of the model ``name``: equality in ONNX Runtime, and an integer program or an error that says why there is none."""
    failed = next((stage for stage in STAGES if _has_failed(name, row, stage)), None)
    if failed is None:
        return Outcome(None, "", True)
    if failed in row["failures"]:
        found = row["failures"][failed]
        return Outcome(failed, f"{found['type']}: {found['message']}", found["kind"] == "error")
    return Outcome(failed, row.get("killed", "no result"), False)


def _has_failed(name: str, row: dict[str, Any], stage: str) -> bool:
    if stage in row["stages"] or (stage in _OF_ONNX and not MODELS[name].through_onnx):
        return False
    is_refused = stage in row["failures"] and row["failures"][stage]["kind"] == "error"
    return not (stage == "lower" and is_refused)  # not every operator has an integer form


def _mark(name: str, row: dict[str, Any], stage: str) -> str:
    if stage in row["stages"]:
        return "yes"
    if stage in row["failures"]:
        return "**no**" if _has_failed(name, row, stage) else "no"
    return "" if "killed" not in row or outcome(name, row).failed_stage != stage else "**no**"


def _in_float(row: dict[str, Any]) -> str:
    found = sorted(row.get("float_operators", {}).items())
    return ", ".join(f"{operator} {count}" if count > 1 else operator for operator, count in found)


def _line(name: str, row: dict[str, Any]) -> str:
    marks = [_mark(name, row, stage) for stage in (*SHOWN, "lower")]
    if MODELS[name].through_onnx:
        marks.insert(0, _mark(name, row, "import"))
    return f"| {name.partition('/')[2]} | {' | '.join(marks)} | {_in_float(row)} |"


def _summary(rows: dict[str, Any]) -> list[str]:
    lines = [
        "| models | run | equal in ONNX Runtime | clear error | traceback or killed | integer program |",
        "| --- | ---: | ---: | ---: | ---: | ---: |",
    ]
    for title, names in [(suite, [n for n in rows if n.startswith(f"{suite}/")]) for suite in SUITES] + [("**all**", list(rows))]:
        found = [outcome(name, rows[name]) for name in names]
        equal = sum("runtime" in rows[name]["stages"] for name in names)
        clear = sum(each.has_failed and each.is_clear for each in found)
        unclear = sum(not each.is_clear for each in found)
        lowered = sum("lower" in rows[name]["stages"] for name in names)
        share = f" ({100 * equal / len(names):.1f} %)" if names else ""
        lines.append(f"| {title} | {len(names)} | {equal}{share} | {clear} | {unclear} | {lowered} |")
    return lines


def _table(suite: str, rows: dict[str, Any]) -> list[str]:
    stages = ["capture", "quantize", "simulate", "ONNX file", "ONNX Runtime", "integer program"]
    stages = ["import", *stages] if suite == "onnx" else stages
    lines = [f"### {suite}", "", f"| model | {' | '.join(stages)} | in float |", "|" + " --- |" * (len(stages) + 2)]
    return lines + [_line(name, rows[name]) for name in MODELS if name in rows and name.startswith(f"{suite}/")] + [""]


def _failures(rows: dict[str, Any]) -> list[str]:
    found = {name: outcome(name, rows[name]) for name in MODELS if name in rows}
    lines = [f"* `{name}`, {each.failed_stage}: {each.reason}" for name, each in found.items() if each.has_failed]
    return ["### Not passed", "", *(lines or ["None."]), ""]


def _operators(rows: dict[str, Any]) -> list[str]:
    models: Counter[str] = Counter()
    for row in rows.values():
        models.update(row.get("float_operators", {}).keys())
    lines = ["### Operators in float", "", "| operator | models |", "| --- | ---: |"]
    return lines + [f"| {operator} | {count} |" for operator, count in sorted(models.items(), key=lambda item: (-item[1], item[0]))] + [""]


def write_page(page: Path, results: dict[str, Any]) -> list[str]:
    """Put the tables between the marks of ``page``, if it is there; returns the summary and the failures as lines."""
    rows = results["rows"]
    summary = _summary(rows)
    body = [*summary, "", *_failures(rows), *_operators(rows)]
    for suite in SUITES:
        body += _table(suite, rows)
    if page.is_file():
        text = page.read_text(encoding="utf-8")
        page.write_text(_MARKS.sub(lambda marks: marks[1] + "\n" + "\n".join(body) + "\n" + marks[2], text), encoding="utf-8")
    return [*summary, "", *_failures(rows)]
