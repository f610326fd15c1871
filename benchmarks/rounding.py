"""Rounding below 8 bits: halfstep beside AIMET, Brevitas and Sony's MCT, on the same images.

    python benchmarks/rounding.py                          the rows that run unasked, on every network; then the targets
    python benchmarks/rounding.py --quick                  one network, two settings, three rows, few images: does it run?
    python benchmarks/rounding.py --long                   also the rows that take half an hour and more
    python benchmarks/rounding.py --redo aimet_adaround_1000,halfstep_lattice    measure these again, keep the others ("all": every one)
    python benchmarks/rounding.py --networks mobilenet_v2 --settings w4a8 --tools float,halfstep_nearest,halfstep_lattice     on ImageNet
    python benchmarks/rounding.py --networks mobilenet_v2 --settings w4a8 --tools halfstep_lattice,aimet_sqnr,aimet_adaround_10
        --samples 512 --limit 5400 --out benchmarks/results/rounding_imagenet_cost.json     what AIMET's way costs at least
    python benchmarks/rounding.py --print                  the tables of what is stored, nothing measured

Each row starts from the trained torch module and 1,024 training images (the same seeded choice for every tool; 512 of ImageNet).
Accuracy: the tool's own simulation in PyTorch, the same batches of the same 5,000 other images (500 of ImageNet). Costs: a fresh process
with one thread; ``CPU s`` and ``wall s`` are the method's (from the module in memory to the quantized one), ``process CPU s`` has imports
and loading too; compilation that happens once is left out and kept as the part ``warm_up``. Rows with fewer than 10,000 iterations are
also given scaled to 10,000: only the seconds inside the loop are multiplied. The rule for the first and last layer stands over every
table, and ``levels`` proves it: how many different values the weights of the first layer have, at most any layer between, and the last.
Finished rows are kept in the JSON file.
"""

import argparse
import os
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from harness.data import IMAGENET_NETWORKS, data_folder, dataset_of
from harness.rounding_rows import FLOAT_SETTING, NETWORKS, QUICK_ROWS, QUICK_SETTINGS, ROWS, Row
from harness.rounding_tables import print_setting, print_targets
from harness.settings import SETTINGS
from harness.store import HERE, Store, agreement, chosen_names, interpreters
from harness.tools import AIMET, BREVITAS, MCT

LIMIT_SECONDS = 6 * 3600.0  # of a row


@dataclass(frozen=True)
class Settings:
    """What a stored row must agree with to be kept."""

    samples: int
    seed: int
    images: int | None


class Benchmark(Store):
    """One run over rows of (network, setting, tool)."""

    def __init__(self, settings: Settings, pythons: dict[str, Path], out: Path, console: Console, limit: float) -> None:
        super().__init__(out, asdict(settings), ("rows",), pythons, limit)
        self.settings, self.console = settings, console

    def forget(self, names: list[str], networks: list[str], settings: list[str]) -> None:
        for key in list(self.results["rows"]):
            network, setting, name = key.split("/")
            if name in names and network in networks and setting in settings:
                del self.results["rows"][key]

    def row(self, network: str, setting: str, row: Row) -> None:
        """Make, measure and evaluate one row, unless a finished one with the same options is stored."""
        key = f"{network}/{setting}/{row.name}"
        kept = self.results["rows"].get(key, {})
        if "top1" in kept and kept["options"] == list(row.options):
            return
        self.console.log(f"{key} {' '.join(row.options)}")
        entry: dict[str, Any] = {"options": list(row.options), "note": row.note, "rule": SETTINGS[setting].rule}
        self.results["rows"][key] = entry | self._measure(network, setting, row)
        self.save()

    def _measure(self, network: str, setting: str, row: Row) -> dict[str, Any]:
        images = self.calibration(network, self.settings.samples, self.settings.seed)
        arguments = ["--network", network, "--setting", setting, "--calibration", str(images)]
        arguments += ["--seed", str(self.settings.seed), *row.options]
        arguments += [] if self.settings.images is None else ["--images", str(self.settings.images)]
        found = self.made_row(row.environment, row.script, arguments, f"{network}.{setting}.{row.name}")
        if "top1" in found:
            exact = self.results["rows"].get(f"{network}/{FLOAT_SETTING}/float", {}).get("predictions")
            found["agreement"] = agreement(found["predictions"], exact)
            if row.name != "float":
                del found["predictions"]
        return found


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", default=None, help=f"comma-separated, of: {', '.join(NETWORKS + IMAGENET_NETWORKS)}")
    parser.add_argument("--settings", default=None, help=f"comma-separated, of: {', '.join(SETTINGS)}")
    parser.add_argument("--tools", default=None, help=f"comma-separated or 'all', of: {', '.join(ROWS)}")
    parser.add_argument("--redo", default="", help="comma-separated rows (or 'all') to measure again, on the chosen networks and settings")
    parser.add_argument("--long", action="store_true", help="also the rows that take half an hour and more")
    parser.add_argument("--print", action="store_true", help="measure nothing")
    parser.add_argument("--samples", type=int, default=1024)
    parser.add_argument("--limit", type=float, default=LIMIT_SECONDS, help="seconds after which a row is stopped")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--venv", action="append", default=[], metavar="NAME=DIR", help=f"a peer's environment, e.g. {AIMET}=.venv-aimet")
    parser.add_argument("--quick", action="store_true", help="ResNet-20, two settings, three rows, 1,000 validation images")
    parser.add_argument("--out", type=Path, default=None, help="JSON file; default benchmarks/results/rounding.json")
    return parser.parse_args()


def _runs(row: Row, network: str, setting: str, given: argparse.Namespace) -> bool:
    """Whether a row runs here: rows that were asked for by name run on every network."""
    if setting not in row.settings:
        return False
    return given.tools is not None or (network in row.networks and (given.long or not row.is_long))


def main() -> None:
    given = _arguments()
    networks = chosen_names(given.networks, NETWORKS[:1] if given.quick else NETWORKS, NETWORKS + IMAGENET_NETWORKS, "network")
    for dataset in {dataset_of(network) for network in networks}:
        data_folder(dataset)
    settings = chosen_names(given.settings, QUICK_SETTINGS if given.quick else tuple(SETTINGS), tuple(SETTINGS), "setting")
    names = chosen_names(given.tools, QUICK_ROWS if given.quick else tuple(ROWS), tuple(ROWS), "tool")
    out = given.out or HERE / "results" / f"rounding{'_quick' if given.quick else ''}.json"
    console = Console(width=None if sys.stdout.isatty() else 220)
    chosen = Settings(given.samples, given.seed, 1000 if given.quick else None)
    benchmark = Benchmark(chosen, interpreters(given.venv, (AIMET, BREVITAS, MCT)), out.resolve(), console, given.limit)
    if not given.print:
        if os.getloadavg()[0] > 1:
            console.log(f"[bold]The machine is busy (load {os.getloadavg()[0]:.1f}): times will be too high.[/bold]")
        benchmark.forget(chosen_names(given.redo, (), tuple(ROWS), "tool") if given.redo else [], networks, settings)
        benchmark.describe()
        for network in networks:
            benchmark.row(network, FLOAT_SETTING, ROWS["float"])
            for setting in settings:
                for name in names:
                    if _runs(ROWS[name], network, setting, given):
                        benchmark.row(network, setting, ROWS[name])
    for network in networks:
        for setting in settings:
            print_setting(console, benchmark.results, network, setting, ["float", *(name for name in names if name != "float")])
    print_targets(console, benchmark.results)
    console.print(f"stored in {out}")


if __name__ == "__main__":
    main()
