"""The stored results as tables: one a network, and one with the means over the networks."""

from statistics import mean, median
from typing import Any

from rich.console import Console
from rich.table import Table

from harness.kernels import summary
from harness.latency import REFERENCES

COLUMNS = (
    "top-1 %",
    "loss",
    "agree %",
    "CPU s",
    "import",
    "wall s",
    "RSS MB",
    "file kB",
    "CPU ms",
    "× float",
    "× halfstep",
    "ONNX Runtime runs",
)


def entry_figures(results: dict[str, Any], network: str, tool: str) -> dict[str, float | str] | None:
    """The figures of one row, or None where the tool did not run."""
    row = results["rows"].get(f"{network}/{tool}")
    if row is None or row.get("missing") or "evaluation" not in row:
        return None
    found = row["evaluation"]
    float_row = results["rows"].get(f"{network}/float", {}).get("evaluation")
    figures: dict[str, float | str] = {
        "top1": found["top1"],
        "cpu": median(run["cpu_seconds"] for run in row["runs"]),
        "import": row["marks"]["cpu"]["imported"],
        "wall": median(run["wall_seconds"] for run in row["runs"]),
        "rss": median(run["peak_rss_bytes"] for run in row["runs"]) / 2**20,
        "bytes": row["file_bytes"] / 1e3,
        "kernels": summary(found["operators"]),
    }
    if float_row is not None:
        pairs = zip(found["predictions"], float_row["predictions"], strict=True)
        figures["loss"] = float_row["top1"] - found["top1"]
        figures["agree"] = 100.0 * mean(a == b for a, b in pairs)
    return figures | _latency(results, network, tool)


def _latency(results: dict[str, Any], network: str, tool: str) -> dict[str, float]:
    times = results["latency"].get(network, {})
    if tool not in times:
        return {}
    own = times[tool]
    ratios = {f"to_{other}": own[f"{other}_ratio_median"] for other in REFERENCES if f"{other}_ratio_median" in own}
    return {"ms": own["cpu_ms_median"]} | ratios


def _cell(figures: dict[str, float | str], key: str, form: str) -> str:
    return format(figures[key], form) if key in figures else "-"


def _cells(figures: dict[str, float | str]) -> list[str]:
    forms = {"top1": ".2f", "loss": "+.2f", "agree": ".2f", "cpu": ".1f", "import": ".1f", "wall": ".1f", "rss": ".0f"}
    forms |= {"bytes": ".0f", "ms": ".3f", "to_float": ".2f", "to_halfstep": ".2f", "kernels": ""}
    return [_cell(figures, key, form) for key, form in forms.items()]


def _table(title: str) -> Table:
    table = Table(title=title, title_justify="left")
    table.add_column("tool")
    for name in COLUMNS:
        table.add_column(name, justify="left" if name == COLUMNS[-1] else "right")
    return table


def print_network(console: Console, results: dict[str, Any], network: str, tools: list[str]) -> None:
    """One row a tool; a tool that could not run says why."""
    table = _table(f"{network}: {results['settings']['samples']} calibration images, batch-1 latency is CPU time of one thread")
    for tool in tools:
        row = results["rows"].get(f"{network}/{tool}", {})
        figures = entry_figures(results, network, tool)
        if figures is not None:
            table.add_row(tool, *_cells(figures))
        elif row:
            table.add_row(tool, *[""] * (len(COLUMNS) - 1), row.get("missing", "failed; see its log"))
    console.print(table)


def means(results: dict[str, Any], networks: list[str], tool: str) -> dict[str, float] | None:
    """Means over ``networks``; None unless the tool ran on all of them. ``worst`` is its largest loss."""
    rows = [entry_figures(results, network, tool) for network in networks]
    complete = [row for row in rows if row is not None]
    if not complete or len(complete) < len(networks):
        return None
    shared = set.intersection(*(set(row) for row in complete)) - {"kernels"}
    found = {key: mean(float(row[key]) for row in complete) for key in shared}
    if "loss" in found:
        found["worst"] = max(float(row["loss"]) for row in complete)
    return found


def print_means(console: Console, results: dict[str, Any], networks: list[str], tools: list[str]) -> None:
    table = _table(f"mean over {', '.join(networks)}")
    for tool in tools:
        found = means(results, networks, tool)
        if found is not None:
            worst = f"worst loss {found['worst']:+.2f}" if "worst" in found else ""
            table.add_row(tool, *_cells(dict(found))[:-1], worst)
    console.print(table)
