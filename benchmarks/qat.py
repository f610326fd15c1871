"""Quantization-aware training on CIFAR-10: how much of the float accuracy comes back, at which cost, and as integers.

    python benchmarks/qat.py                           LSQ at W8A8, W4A4, W3A3 and W2A2 on ResNet-20, ten epochs at most, taught by itself
                                                       or by three networks, Brevitas and torchao at W8A8 and W4A4; then the targets
    python benchmarks/qat.py --quick                   an eighth of an epoch, two rows, 500 validation images: does it run?
    python benchmarks/qat.py --rows all                also the other quantizers for one epoch each, and the peers' defaults
    python benchmarks/qat.py --rows brevitas_w4a4 --venv brevitas=/some/folder      a peer whose environment lies elsewhere
    python benchmarks/qat.py --redo lsq_w2a2           measure these again, keep the others ("all": every one)
    python benchmarks/qat.py --print                   the tables of what is stored, nothing measured

Each row is a fresh process with one thread: a trained network, quantized by the recipe and trained on 40,000 images, judged on 5,000
others by its simulation, in float32 and in float64, and by its integer program. CPU seconds are those of the whole method. An interrupted
row goes on where it stopped. Peers get the same images in the same order, moved and mirrored alike, the same number of epochs, schedule,
optimizer and first learning rate; they have no integer program, and start anew when interrupted. Finished rows are kept in the JSON file.
"""

import argparse
import os
import sys
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from harness.data import data_folder
from harness.qat_rows import FLOAT, MAIN, MOST_EPOCHS, NETWORKS, PEERS, ROWS, Peer, Row, judged, percent
from harness.settings import SETTINGS
from harness.store import HERE, Store, chosen_names, interpreters
from harness.tools import BREVITAS, OWN, TORCHAO

NAMES = (*ROWS, *PEERS)
LIMIT_SECONDS = 12 * 3600.0
COLUMNS = ("epochs", "top-1 %", "loss", "float64 %", "integers %", "kB", "CPU s", "images/s", "peak MB", "note")


class Benchmark(Store):
    """One run over rows of (network, recipe) and (network, peer)."""

    def __init__(self, settings: dict[str, Any], pythons: dict[str, Path], out: Path, console: Console) -> None:
        super().__init__(out, settings, ("rows",), pythons, LIMIT_SECONDS)
        self.settings, self.console = settings, console

    def exact(self, network: str) -> None:
        """The float network's row."""
        arguments = ["--setting", next(iter(SETTINGS)), "--method", "float"]
        self._made(network, FLOAT, OWN, "float_rounding.py", arguments, {"note": "the trained network"})

    def row(self, network: str, row: Row) -> None:
        keep = self.work / f"{network}.{row.name}.checkpoint"
        arguments = ["--recipe", row.recipe, "--options", row.options, "--epochs", str(self.epochs(row)), "--keep", str(keep)]
        arguments += ["--teachers", ",".join(row.teachers)]
        entry = {"note": row.note, "recipe": row.recipe, "options": row.options, "epochs": self.epochs(row), "teachers": list(row.teachers)}
        self._made(network, row.name, OWN, "halfstep_qat.py", arguments, entry)

    def peer(self, network: str, row: Peer) -> None:
        epochs = self.epochs(ROWS[row.beside])
        entry = {"note": row.note, "options": list(row.options), "epochs": epochs}
        self._made(network, row.name, row.environment, row.script, ["--epochs", str(epochs), *row.options], entry)

    def epochs(self, row: Row) -> float:
        """The row's, or as many as there may be at most."""
        return min(row.epochs, float(self.settings["most_epochs"]))

    def _made(self, network: str, name: str, environment: str, script: str, arguments: list[str], entry: dict[str, Any]) -> None:
        key = f"{network}/{name}"
        if "top1" in self.results["rows"].get(key, {}):
            return
        self.console.log(key)
        images = self.calibration(network, self.settings["samples"], self.settings["seed"])
        shared = ["--network", network, "--calibration", str(images), "--seed", str(self.settings["seed"])]
        if self.settings["images"] is not None:
            shared += ["--images", str(self.settings["images"])]
        found = self.made_row(environment, script, [*shared, *arguments], f"{network}.{name}")
        found.pop("predictions", None)
        self.results["rows"][key] = entry | found
        self.save()


def print_network(console: Console, rows: dict[str, Any], network: str, names: list[str]) -> None:
    """One table; a row that could not run says why."""
    table = Table("row", *COLUMNS, title=network, title_justify="left")
    exact = rows.get(f"{network}/{FLOAT}", {}).get("top1")
    for name in (FLOAT, *names):
        row = rows.get(f"{network}/{name}")
        if row is None:
            continue
        if "top1" not in row:
            table.add_row(name, *[""] * (len(COLUMNS) - 1), row["missing"])
            continue
        size = f"{row['weight_bytes'] / 1e3:.0f}" if "weight_bytes" in row else ""
        cost = ["", ""] if name == FLOAT else [f"{row['method_cpu_seconds']:.0f}", f"{row['images_per_second']:.0f}"]
        more = [percent(row, "top1_float64"), percent(row, "integer"), size, *cost]
        lost = "-" if exact is None else f"{exact - row['top1']:+.2f}"
        epochs = f"{row['epochs']:g}" if "epochs" in row else ""
        table.add_row(name, epochs, f"{row['top1']:.2f}", lost, *more, f"{row['peak_rss_bytes'] / 1e6:.0f}", row["note"])
    if table.row_count:
        console.print(table)


def print_targets(console: Console, rows: dict[str, Any]) -> None:
    words = {True: "reached", False: "NOT reached", None: "not measured"}
    table = Table("target", "", "figures", title="what this benchmark must show")
    for asked, is_reached, figures in judged(rows, MAIN[0]):
        table.add_row(asked, words[is_reached], figures)
    console.print(table)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", default=None, help=f"comma-separated, of: {', '.join(NETWORKS)}")
    parser.add_argument("--rows", default=None, help=f"comma-separated or 'all', of: {', '.join(NAMES)}")
    parser.add_argument("--redo", default="", help="comma-separated rows (or 'all') to measure again, on the chosen networks")
    parser.add_argument("--print", action="store_true", help="measure nothing")
    parser.add_argument("--most-epochs", type=float, default=MOST_EPOCHS, help="of any row")
    parser.add_argument("--samples", type=int, default=512, help="images to calibrate on")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--venv", action="append", default=[], metavar="NAME=DIR", help=f"as {TORCHAO}=.venv-torchao")
    parser.add_argument("--quick", action="store_true", help="an eighth of an epoch, two rows, 500 validation images")
    parser.add_argument("--out", type=Path, default=None, help="JSON file; default benchmarks/results/qat.json")
    return parser.parse_args()


def main() -> None:
    given = _arguments()
    data_folder()
    networks = chosen_names(given.networks, MAIN, NETWORKS, "network")
    asked = tuple(row.name for row in (*ROWS.values(), *PEERS.values()) if row.is_asked_for)
    names = chosen_names(given.rows, ("lsq_w4a4", "sat_w2a8") if given.quick else asked, NAMES, "row")
    out = (given.out or HERE / "results" / f"qat{'_quick' if given.quick else ''}.json").resolve()
    console = Console(width=None if sys.stdout.isatty() else 160)
    settings = {"most_epochs": 0.125 if given.quick else given.most_epochs, "samples": given.samples, "seed": given.seed}
    benchmark = Benchmark(settings | {"images": 500 if given.quick else None}, interpreters(given.venv, (BREVITAS, TORCHAO)), out, console)
    rows = benchmark.results["rows"]
    if not given.print:
        if os.getloadavg()[0] > 1:
            console.log(f"[bold]The machine is busy (load {os.getloadavg()[0]:.1f}): times will be too high.[/bold]")
        for name in chosen_names(given.redo, (), NAMES, "row") if given.redo else []:
            for network in networks:
                rows.pop(f"{network}/{name}", None)
        benchmark.describe()
        for network in networks:
            benchmark.exact(network)
            for name in names:
                if name in ROWS:
                    benchmark.row(network, ROWS[name])
                else:
                    benchmark.peer(network, PEERS[name])
    for network in networks:
        print_network(console, rows, network, list(NAMES))
    print_targets(console, rows)
    console.print(f"stored in {out}")


if __name__ == "__main__":
    main()
