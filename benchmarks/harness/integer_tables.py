"""The stored rows of the integer benchmark as tables, in Markdown, and the list of targets."""

from statistics import mean
from typing import Any

from rich.box import MARKDOWN
from rich.console import Console
from rich.table import Table

from harness.integer_rows import FLOAT, MODES, ROWS, SAMPLES, THRESHOLDS, mode_row, threshold_row
from harness.integer_targets import TARGETS, Rows, drop, judge, losses, process_seconds, stored

THRESHOLD_WIDTHS = ("w8a8", "w4a8", "w8a4")


def _table(console: Console, title: str, columns: list[str], num_words: int = 1) -> Table:
    """An empty table whose first ``num_words`` columns hold words, the others numbers."""
    console.print(f"\n{title}\n", highlight=False)
    table = Table(box=MARKDOWN)
    for index, column in enumerate(columns):
        table.add_column(column, justify="left" if index < num_words else "right", no_wrap=True)
    return table


def _print(console: Console, table: Table) -> None:
    console.print(table, highlight=False)


def _accuracy(rows: Rows, network: str, row: dict[str, Any] | None) -> str:
    """Top-1 and what it is above or below float."""
    lost = drop(rows, network, row)
    if row is None:
        return "-"
    return f"{row['top1']:.2f}" if lost is None else f"{row['top1']:.2f} ({-lost:+.2f})"


def print_modes(console: Console, rows: Rows, networks: list[str]) -> None:
    """Requantization x network, for each recipe and number of images: top-1 of the interpreter, distance to float, kB of the program."""
    for recipe in ("normalize", "int8"):
        for samples in SAMPLES:
            names = [mode_row(recipe, mode) for mode in MODES]
            if not any(stored(rows, network, samples, name) for network in networks for name in names):
                continue
            title = f"W8A8, recipe {recipe}, {samples:,} images: top-1 of the integer program in % (and against float), its kB"
            heads = [head for network in networks for head in (network, "kB")]
            table = _table(console, title, ["requantization", *heads, "mean loss", "worst"])
            exact = [stored(rows, network, SAMPLES[0], FLOAT) for network in networks]
            table.add_row("float network", *[cell for row in exact for cell in ("-" if row is None else f"{row['top1']:.2f}", "")], "", "")
            for mode, name in zip(MODES, names, strict=True):
                found = [stored(rows, network, samples, name) for network in networks]
                cells = [_accuracy(rows, network, row) for network, row in zip(networks, found, strict=True)]
                sizes = ["-" if row is None else f"{row['weight_bytes'] / 1e3:.1f}" for row in found]
                lost = losses(rows, samples, name)
                summary = ("", "") if lost is None else (f"{mean(lost):.2f}", f"{max(lost):.2f}")
                table.add_row(mode, *[cell for pair in zip(cells, sizes, strict=True) for cell in pair], *summary)
            _print(console, table)


DETAILS = (
    *("network", "row", "images", "top-1 %", "loss", "agree %", "simulation %", "codes off", "multiplier off"),
    *("kB", "method CPU s", "process CPU s", "note"),
)


def _off(row: dict[str, Any]) -> str:
    """Codes in which program and simulation differ, in a million."""
    codes = row["codes"]
    return f"{1e6 * codes['differing'] / codes['compared']:.1f} ppm, {codes['largest_difference']}"


def _detail(rows: Rows, network: str, samples: int, name: str, row: dict[str, Any]) -> list[str]:
    cells = [network, name, f"{samples:,}"]
    if "top1" not in row:
        return [*cells, *[""] * (len(DETAILS) - 4), f"{ROWS[name].note}: {row['missing']}"]
    lost = drop(rows, network, row)
    is_own = "weight_bytes" in row
    return [
        *cells,
        f"{row['top1']:.2f}",
        "-" if lost is None else f"{lost:+.2f}",
        "-" if row["agreement"] is None else f"{row['agreement']:.2f}",
        "-" if row.get("simulated") is None else f"{row['simulated']:.2f}",
        _off(row) if is_own else "",
        f"{100 * row['rescale_error']:.2g} %" if is_own else "",
        f"{row['weight_bytes'] / 1e3:.1f}" if is_own else "",
        f"{row['method_cpu_seconds']:.1f}",
        f"{process_seconds(row):.1f}",
        ROWS[name].note,
    ]


def print_rows(console: Console, rows: Rows, networks: list[str], title: str, names: list[str]) -> None:
    """One line a stored row, in the order of ``names``; a row that could not run says why."""
    lines = [
        _detail(rows, network, samples, name, rows[f"{network}/{samples}/{name}"])
        for network in networks
        for name in names
        for samples in SAMPLES
        if f"{network}/{samples}/{name}" in rows
    ]
    if not lines:
        return
    table = _table(console, title, list(DETAILS), 2)
    for line in lines:
        table.add_row(*line)
    _print(console, table)


def print_thresholds(console: Console, rows: Rows, networks: list[str]) -> None:
    """Range of the activations x widths x network."""
    places = [(network, width) for network in networks for width in THRESHOLD_WIDTHS]
    places = [(network, width) for network, width in places if any(_threshold(rows, network, width, name) for name in THRESHOLDS)]
    if not places:
        return
    title = f"Range of the activations, recipe int8 with these widths, {SAMPLES[0]} images: top-1 of the program in % (and against float)"
    table = _table(console, title, ["range", *(f"{network} {width.upper()}" for network, width in places)])
    for name in THRESHOLDS:
        table.add_row(name, *(_accuracy(rows, network, _threshold(rows, network, width, name)) for network, width in places))
    _print(console, table)


def _threshold(rows: Rows, network: str, width: str, name: str) -> dict[str, Any] | None:
    return stored(rows, network, SAMPLES[0], threshold_row(name, width))


def print_section(console: Console, rows: Rows, networks: list[str], section: str) -> None:
    """The tables of one section."""
    names = [name for name, row in ROWS.items() if row.section == section]
    if section == "modes":
        print_modes(console, rows, networks)
        print_rows(console, rows, networks, "Every row of W8A8", names)
    elif section == "bits":
        print_rows(console, rows, networks, "Fewer bits: the lecture's means alone, and the lattice rounding", names)
    elif section == "thresholds":
        print_thresholds(console, rows, networks)
    else:
        own = ["float", mode_row("normalize", "fixed_point_32"), mode_row("normalize", "single_shift"), "normalize_w4a8", "normalize_w4a4"]
        own += ["lattice_w4a8", "lattice_w4a4"]
        print_rows(console, rows, networks, "Aidge 0.10.1 beside halfstep", [*own, *names])


def print_targets(console: Console, rows: Rows) -> None:
    words = {True: "reached", False: "NOT reached", None: "not measured"}
    table = _table(console, "What this benchmark must show", ["target", "", "figures"], 3)
    for target in TARGETS:
        is_reached, asked, figures = judge(target, rows)
        table.add_row(asked, words[is_reached], figures)
    _print(console, table)
