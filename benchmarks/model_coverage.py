"""Which networks halfstep takes: one small model of every family of timm, torchvision and transformers, through every stage.

    python benchmarks/model_coverage.py --venv coverage=.venv-coverage        every model, then docs/coverage.md
    python benchmarks/model_coverage.py --only 'timm/res*' --jobs 2           models whose names match, two at a time
    python benchmarks/model_coverage.py --redo 'onnx/*'                       measure these again, keep the others
    python benchmarks/model_coverage.py --redo failed                         measure again what did not pass
    python benchmarks/model_coverage.py --print                               the table of what is stored, nothing run

Weights and inputs are random: nothing is downloaded, and what is asked is whether the way is open, not how accurate the network is. The
stages: build, capture, int8 quantization on 8 inputs (2 where each is a film at full size), simulation, ONNX file, that file in ONNX
Runtime layer by layer within one code, integer program. Models under onnx/ are written by PyTorch's exporter first, read by `hs.load_onnx`,
and compared with ONNX Runtime's outputs of the same file. Each model runs in a process of its own, which is killed after ``--limit``
seconds; finished rows are kept in the JSON file, and a run that was interrupted goes on. (The script is not called coverage.py: numba would
import it for the package.)
"""

import argparse
import fnmatch
import json
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Lock
from typing import Any

from rich.console import Console

from harness.coverage_models import MODELS
from harness.coverage_tables import outcome, write_page
from harness.data import ROOT
from harness.store import HERE, Store, interpreters
from harness.tools import COVERAGE, INSTALL, OWN

PAGE = ROOT / "docs" / "coverage.md"


class Benchmark(Store):
    """One row a model."""

    def __init__(self, seed: int, pythons: dict[str, Path], limit: float, out: Path, console: Console) -> None:
        super().__init__(out, {"seed": seed}, ("rows",), pythons, limit)
        self.seed, self.console, self._lock = seed, console, Lock()

    def forget(self, pattern: str) -> None:
        rows = self.results["rows"]
        for name in list(rows):
            if outcome(name, rows[name]).has_failed if pattern == "failed" else fnmatch.fnmatch(name, pattern):
                del rows[name]

    def row(self, name: str) -> None:
        """Run one model, unless its row is stored."""
        if name in self.results["rows"]:
            return
        made, log = self.work / f"{name.replace('/', '.')}.json", f"{name.replace('/', '.')}.log"
        made.unlink(missing_ok=True)
        arguments = ["-m", "peers.coverage_row", "--model", name, "--seed", str(self.seed), "--out", str(made)]
        done = self.run(self.pythons[COVERAGE], arguments, log)
        found: dict[str, Any] = json.loads(made.read_text()) if made.is_file() else {"stages": {}, "failures": {}}
        if done.return_code:
            found["killed"] = f"more than {self.limit:.0f} s" if done.wall_seconds > self.limit else f"exit status {done.return_code}"
        found |= {"cpu_seconds": round(done.cpu_seconds, 1), "peak_rss_bytes": done.peak_rss_bytes}
        with self._lock:
            self.results["rows"][name] = found
            self.save()
            self.console.log(f"{name}: {outcome(name, found).text}")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="*", metavar="PATTERN", help="models whose names match, e.g. 'timm/vit*'")
    parser.add_argument("--redo", default=None, metavar="PATTERN", help="models to run again ('failed': those that did not pass)")
    parser.add_argument("--jobs", type=int, default=1, help="models at a time")
    parser.add_argument("--limit", type=float, default=180.0, help="seconds a model may take")
    parser.add_argument("--print", action="store_true", help="run nothing")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--venv", action="append", default=[], metavar="NAME=DIR", help=f"the environment, e.g. {COVERAGE}=.venv-coverage")
    parser.add_argument("--out", type=Path, default=HERE / "results" / "coverage.json", help="JSON file")
    parser.add_argument("--page", type=Path, default=PAGE, help="the document whose table is written")
    return parser.parse_args()


def main() -> None:
    given = _arguments()
    console = Console(width=None if sys.stdout.isatty() else 200)
    pythons = {name: python for name, python in interpreters(given.venv, (COVERAGE,)).items() if name != OWN}
    benchmark = Benchmark(given.seed, pythons, given.limit, given.out.resolve(), console)
    if given.redo is not None:
        benchmark.forget(given.redo)
    if not given.print:
        if not pythons[COVERAGE].is_file():
            sys.exit(f"The benchmark's environment is not installed: run {INSTALL[COVERAGE]}, or name it with --venv {COVERAGE}=DIR.")
        benchmark.describe()
        with ThreadPoolExecutor(given.jobs) as pool:
            for _ in pool.map(benchmark.row, [name for name in MODELS if fnmatch.fnmatch(name, given.only)]):
                pass
    rows = benchmark.results["rows"]
    for line in write_page(given.page, benchmark.results):
        console.print(line)
    console.print(f"{len(rows)} of {len(MODELS)} models stored in {given.out}")


if __name__ == "__main__":
    main()
