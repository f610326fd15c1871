"""A sentence encoder (MiniLM, 6 layers) with fewer bits: halfstep beside ONNX Runtime's own tools, on the same sentences.

    python benchmarks/sentence_encoder.py                                        every row; make bench-minilm-env installs what it needs
    python benchmarks/sentence_encoder.py --quick                                three rows: does it run?
    python benchmarks/sentence_encoder.py --rows w4_g32_lattice,ort_rtn_g32      these rows
    python benchmarks/sentence_encoder.py --redo ort_rtn_g32                     measure these again ("all": every one), keep the others
    python benchmarks/sentence_encoder.py --print                                the table of what is stored

Each row starts from the torch module (or the float file) and 112 sentences, and ends with an ONNX file. 191 other sentences in 200 pairs
are then encoded by every file in ONNX Runtime. ``cos``: of each embedding with float's, mean and least. ``rank``: Spearman's correlation
of the similarities of the pairs with float's. ``grades``: with how alike the sentences were meant to be. ``CPU s``: of the method, from the
network in memory to the quantized one; ``process CPU s`` has imports, export and its verification too. ``ms``: CPU time of one sentence of
24 tokens on one thread, all files in turn in one process.
"""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from rich.box import MARKDOWN
from rich.console import Console
from rich.table import Table

from harness.sentence_rows import ORT, QUICK_ROWS, ROWS, Row
from harness.store import HERE, Store, chosen_names, interpreters
from harness.tools import MINILM

LIMIT_SECONDS = 3600.0
COLUMNS = ("row", "cos mean", "cos least", "rank", "grades", "CPU s", "process CPU s", "file MB", "ms", "note")


class Benchmark(Store):
    """One run over rows, and the evaluation of all files there are."""

    def file(self, name: str) -> Path:
        return self.work / f"{name}.onnx"

    def row(self, row: Row) -> None:
        """Make one file, unless it is there and was made with the same options."""
        kept = self.results["rows"].get(row.name, {})
        if "marks" in kept and kept["options"] == list(row.options) and self.file(row.name).is_file():
            return
        source = ["--source", str(self.file("float"))] if row.script == ORT else []
        found = self.made_row(MINILM, row.script, [*row.options, *source, "--model", str(self.file(row.name))], row.name)
        self.results["rows"][row.name] = {"options": list(row.options), "note": row.note} | found
        self.results["evaluation"] = {}
        self.save()

    def evaluate(self, rounds: int) -> None:
        """Embeddings and latency of every file, in one process."""
        files = [f"{name}={self.file(name)}" for name in ROWS if "marks" in self.results["rows"].get(name, {})]
        out = self.work / "evaluation.json"
        arguments = ["-m", "harness.encoder_evaluation", "--out", str(out), "--rounds", str(rounds), *files]
        done = self.run(self.pythons[MINILM], arguments, "evaluation.log")
        if done.return_code != 0:
            sys.exit(f"the evaluation failed:\n{done.log_tail}")
        self.results["evaluation"] = json.loads(out.read_text())
        self.save()


def print_table(console: Console, results: dict[str, Any]) -> None:
    table = Table(box=MARKDOWN)
    for index, name in enumerate(COLUMNS):
        table.add_column(name, justify="left" if index in (0, len(COLUMNS) - 1) else "right", no_wrap=True)
    for name in ROWS:
        row, found = results["rows"].get(name), results["evaluation"].get(name)
        if row is None:
            continue
        if found is None:
            table.add_row(name, *[""] * (len(COLUMNS) - 2), f"{row['note']}: {row.get('missing', 'not evaluated')}")
            continue
        cells = [f"{found[key]:.4f}" for key in ("cosine_mean", "cosine_min", "spearman")] + [f"{found['spearman_grades']:.3f}"]
        cells += [f"{row['method_cpu_seconds']:.1f}", f"{row['process']['cpu_seconds']:.1f}", f"{found['bytes'] / 1e6:.1f}"]
        cells.append(f"{found['cpu_ms_median']:.2f}" if "cpu_ms_median" in found else "-")
        table.add_row(name, *cells, row["note"])
    console.print(table, highlight=False)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", default=None, help=f"comma-separated or 'all', of: {', '.join(ROWS)}")
    parser.add_argument("--redo", default="", help="comma-separated rows (or 'all') to make again")
    parser.add_argument("--rounds", type=int, default=40, help="of the latency; 0: not measured")
    parser.add_argument("--venv", action="append", default=[], metavar="NAME=DIR", help=f"the environment, e.g. {MINILM}=.venv-minilm")
    parser.add_argument("--quick", action="store_true", help="three rows")
    parser.add_argument("--print", action="store_true", help="measure nothing")
    parser.add_argument("--out", type=Path, default=None, help="JSON file; default benchmarks/results/sentence_encoder.json")
    given = parser.parse_args()
    names = chosen_names(given.rows, QUICK_ROWS if given.quick else tuple(ROWS), tuple(ROWS), "row")
    out = given.out or HERE / "results" / f"sentence_encoder{'_quick' if given.quick else ''}.json"
    console = Console(width=None if sys.stdout.isatty() else 220)
    benchmark = Benchmark(out.resolve(), {}, ("rows", "evaluation"), interpreters(given.venv, (MINILM,)), LIMIT_SECONDS)
    if not given.print:
        for name in chosen_names(given.redo, (), tuple(ROWS), "row") if given.redo else []:
            benchmark.results["rows"].pop(name, None)
        benchmark.describe()
        for name in dict.fromkeys(["float", *names]):
            console.log(name)
            benchmark.row(ROWS[name])
        benchmark.evaluate(given.rounds)
    print_table(console, benchmark.results)
    console.print(f"stored in {out}")


if __name__ == "__main__":
    main()
