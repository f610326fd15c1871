"""Integer programs on CIFAR-10: every requantization, widths below 8 bits, thresholds; halfstep beside Aidge, on the same images.

    python benchmarks/integer_ptq.py                          the rows that run unasked, then the tables and the targets
    python benchmarks/integer_ptq.py --quick                  one network, six rows, few images: does it run?
    python benchmarks/integer_ptq.py --long                   also every row on the large networks and at 1,024 images
    python benchmarks/integer_ptq.py --redo normalize_w4a4    measure these again, keep the others ("all": every one)
    python benchmarks/integer_ptq.py --print                  the tables of what is stored, nothing measured

Each row starts from the trained torch module and 256 or 1,024 training images (the same seeded choice for every tool). Accuracy: what the
integer interpreter computes on 5,000 other images; ``agree``: on how many of them the float network says the same; ``simulation``: top-1
of the same network simulated in float. ``codes off``: codes in which program and simulation differ, in a million, and by how many at most,
operator by operator from the same inputs. ``multiplier off``: the largest relative distance of an integer multiplier from the scale it
stands for. kB: packed codes, biases and tables. Costs: a fresh process with one thread; ``method CPU s`` from the module in memory to the
integer program (capture, quantize, lower, compare), ``process CPU s`` from the start of the process, imports and all. Finished rows are
kept in the JSON file.
"""

import argparse
import os
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

from rich.console import Console

from harness.data import data_folder
from harness.integer_rows import FLOAT, NETWORKS, QUICK_ROWS, ROWS, SAMPLES, SECTIONS, Row
from harness.integer_tables import print_section, print_targets
from harness.store import HERE, Store, agreement, chosen_names, interpreters
from harness.tools import AIDGE

LIMIT_SECONDS = 3600.0


@dataclass(frozen=True)
class Settings:
    """What a stored row must agree with to be kept."""

    seed: int
    images: int | None


class Benchmark(Store):
    """One run over rows of (network, number of calibration images, row)."""

    def __init__(self, settings: Settings, pythons: dict[str, Path], out: Path, console: Console) -> None:
        super().__init__(out, asdict(settings), ("rows",), pythons, LIMIT_SECONDS)
        self.settings, self.console = settings, console

    def forget(self, names: list[str], networks: list[str], samples: list[int]) -> None:
        for key in list(self.results["rows"]):
            network, count, name = key.split("/")
            if name in names and network in networks and int(count) in samples:
                del self.results["rows"][key]

    def row(self, network: str, samples: int, row: Row) -> None:
        """Make, measure and evaluate one row, unless a finished one with the same options is stored."""
        key = f"{network}/{samples}/{row.name}"
        kept = self.results["rows"].get(key, {})
        if "top1" in kept and kept["options"] == list(row.options):
            return
        self.console.log(f"{key} {' '.join(row.options)}")
        arguments = ["--network", network, "--calibration", str(self.calibration(network, samples, self.settings.seed))]
        arguments += ["--seed", str(self.settings.seed), *row.options]
        arguments += [] if self.settings.images is None else ["--images", str(self.settings.images)]
        arguments += self._files(network) if row.environment == AIDGE else []
        found = self.made_row(row.environment, row.script, arguments, key.replace("/", "."))
        if "top1" in found:
            exact = self.results["rows"].get(f"{network}/{SAMPLES[0]}/{FLOAT}", {}).get("predictions")
            found["agreement"] = agreement(found["predictions"], exact)
            if row.name != FLOAT:
                del found["predictions"]
        self.results["rows"][key] = {"options": list(row.options), "note": row.note} | found
        self.save()

    def _files(self, network: str) -> list[str]:
        """What a peer without torch needs, written the first time: the float network as ONNX, the validation images as arrays."""
        model, images = self.work / f"{network}.float.onnx", self.work / f"{network}.validation.npz"
        if not model.is_file():
            self.module("aidge_network", "--network", network, "--out", str(model))
        if not images.is_file():
            self.module("data", "--network", network, "--validation", "--out", str(images))
        return ["--onnx", str(model), "--validation", str(images)]


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", default=None, help=f"comma-separated, of: {', '.join(NETWORKS)}")
    parser.add_argument("--samples", default=None, help=f"numbers of calibration images, of: {', '.join(map(str, SAMPLES))}")
    parser.add_argument("--sections", default=None, help=f"comma-separated, of: {', '.join(SECTIONS)}")
    parser.add_argument("--rows", default=None, help=f"comma-separated or 'all', of: {', '.join(ROWS)}")
    parser.add_argument("--redo", default="", help="comma-separated rows (or 'all') to measure again, on the chosen networks and samples")
    parser.add_argument("--long", action="store_true", help="also every row on the large networks and at 1,024 images")
    parser.add_argument("--print", action="store_true", help="measure nothing")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--venv", action="append", default=[], metavar="NAME=DIR", help=f"a peer's environment, e.g. {AIDGE}=.venv-aidge")
    parser.add_argument("--quick", action="store_true", help="ResNet-20, 256 images, six rows, 500 validation images")
    parser.add_argument("--out", type=Path, default=None, help="JSON file; default benchmarks/results/integer_ptq.json")
    return parser.parse_args()


def _places(row: Row, given: argparse.Namespace) -> tuple[tuple[str, int], ...]:
    """Where a row runs: rows that were asked for by name run on every network."""
    return row.runs + row.also if given.long or given.rows is not None else row.runs


def main() -> None:
    given = _arguments()
    data_folder()
    networks = chosen_names(given.networks, NETWORKS[:1] if given.quick else NETWORKS, NETWORKS, "network")
    counts = tuple(map(str, SAMPLES))
    samples = [int(count) for count in chosen_names(given.samples, counts[:1] if given.quick else counts, counts, "number of images")]
    sections = chosen_names(given.sections, SECTIONS, SECTIONS, "section")
    names = chosen_names(given.rows, QUICK_ROWS if given.quick else tuple(ROWS), tuple(ROWS), "row")
    names = [name for name in names if ROWS[name].section in (*sections, FLOAT)]
    out = given.out or HERE / "results" / f"integer_ptq{'_quick' if given.quick else ''}.json"
    console = Console(width=None if sys.stdout.isatty() else 400)
    benchmark = Benchmark(Settings(given.seed, 500 if given.quick else None), interpreters(given.venv, (AIDGE,)), out.resolve(), console)
    if not given.print:
        if os.getloadavg()[0] > 1:
            console.log(f"[bold]The machine is busy (load {os.getloadavg()[0]:.1f}): times will be too high.[/bold]")
        benchmark.forget(chosen_names(given.redo, (), tuple(ROWS), "row") if given.redo else [], networks, samples)
        benchmark.describe()
        for network in networks:
            benchmark.row(network, SAMPLES[0], ROWS[FLOAT])
            for name in names:
                for place, count in _places(ROWS[name], given):
                    if place == network and count in samples:
                        benchmark.row(network, count, ROWS[name])
    for section in sections:
        print_section(console, benchmark.results["rows"], networks, section)
    print_targets(console, benchmark.results["rows"])
    console.print(f"stored in {out}")


if __name__ == "__main__":
    main()
