"""The stored rows of the rounding benchmark as tables, one a network and setting, and the list of targets."""

from typing import Any

from rich.console import Console
from rich.table import Table

from harness.rounding_rows import FLOAT_SETTING, FULL_ITERATIONS
from harness.settings import SETTINGS
from harness.targets import TARGETS, drop, full_cost, judge

COLUMNS = (
    *("top-1 %", "loss", "agree %", "levels", "CPU s", f"at {FULL_ITERATIONS:,}", "ms/iteration"),
    *("wall s", "process CPU s", "peak MB", "note"),
)


def _cells(rows: dict[str, Any], network: str, row: dict[str, Any]) -> list[str]:
    lost, agreement = drop(rows, network, row), row.get("agreement")
    levels = row["levels"]
    cells = [
        f"{row['top1']:.2f}",
        "-" if lost is None else f"{lost:+.2f}",
        "-" if agreement is None else f"{agreement:.2f}",
        "{first}/{between}/{last}".format(**levels) if levels else "-",
        f"{row['method_cpu_seconds']:.1f}",
    ]
    if "loop_cpu_seconds" in row:
        cells += [f"{full_cost(row):.0f}", f"{1e3 * row['loop_cpu_seconds'] / row['iterations']:.1f}"]
    else:
        cells += ["", ""]
    process = row["marks"]["cpu"]["quantized"]
    return [*cells, f"{row['method_wall_seconds']:.1f}", f"{process:.1f}", f"{row['peak_rss_bytes'] / 1e6:.0f}", row["note"]]


def print_setting(console: Console, results: dict[str, Any], network: str, setting: str, names: list[str]) -> None:
    """One table; a row that could not run says why. ``levels``: of the first layer's weights, at most of those between, of the last."""
    table = Table(title=f"{network}, {SETTINGS[setting].title}", title_justify="left")
    table.add_column("row", no_wrap=True)
    for column in COLUMNS:
        table.add_column(column, justify="left" if column == "note" else "right")
    for name in names:
        row = results["rows"].get(f"{network}/{FLOAT_SETTING if name == 'float' else setting}/{name}")
        if row is not None and "top1" in row:
            table.add_row(name, *_cells(results["rows"], network, row))
        elif row is not None:
            table.add_row(name, *[""] * (len(COLUMNS) - 1), row["missing"])
    if table.row_count:
        console.print(table)


def print_targets(console: Console, results: dict[str, Any]) -> None:
    words = {True: "reached", False: "NOT reached", None: "not measured"}
    table = Table("target", "", "figures", title="what this benchmark must show", title_justify="left")
    for target in TARGETS:
        is_reached, asked, figures = judge(target, results["rows"])
        table.add_row(asked, words[is_reached], figures)
    console.print(table)
