"""Does memory grow with the number of calibration images? halfstep on the same file of 40,000 images, using 256 to 8,192 of them.

    python benchmarks/calibration_memory.py

A fresh process with one thread for each row; the peak is the kernel's count of resident memory. Prints a table and writes
``benchmarks/results/calibration_memory.json``.
"""

import json
import sys
import tempfile
from pathlib import Path

from rich.console import Console
from rich.table import Table

from harness.data import ROOT, data_folder
from harness.machine import commit, machine_facts, versions
from harness.measured import run_measured

HERE = Path(__file__).resolve().parent
NETWORK, COUNTS, LIMIT_SECONDS = "resnet20", (256, 1024, 8192), 1200


def measure(samples: int, folder: Path) -> dict[str, float]:
    """Peak memory in bytes and CPU seconds of one run."""
    report = folder / f"{samples}.json"
    arguments = [str(HERE / "peers" / "halfstep_stream.py"), "--network", NETWORK, "--samples", str(samples), "--out", str(report)]
    environment = {"PYTHONPATH": f"{HERE}:{ROOT / 'src'}"}
    done = run_measured([sys.executable, *arguments], folder / f"{samples}.log", environment, LIMIT_SECONDS)
    if done.return_code != 0:
        sys.exit(f"{samples} images failed:\n{done.log_tail}")
    statistics = json.loads(report.read_text())["seconds"]["phases"]["statistics"]["cpu"]
    return {
        "samples": samples,
        "peak_rss_bytes": done.peak_rss_bytes,
        "cpu_seconds": done.cpu_seconds,
        "statistics_cpu_seconds": statistics,
    }


def main() -> None:
    data_folder()
    with tempfile.TemporaryDirectory() as folder:
        rows = [measure(samples, Path(folder)) for samples in COUNTS]
    table = Table("images", "peak memory MB", "CPU s", "of them for statistics", title=f"{NETWORK}, recipe int8")
    for row in rows:
        memory = f"{row['peak_rss_bytes'] / 1e6:.0f}"
        table.add_row(str(row["samples"]), memory, f"{row['cpu_seconds']:.1f}", f"{row['statistics_cpu_seconds']:.1f}")
    Console().print(table)
    facts = {"machine": machine_facts(), "commit": commit(ROOT), "versions": versions(Path(sys.executable)), "seed": 0}
    out = HERE / "results" / "calibration_memory.json"
    out.write_text(json.dumps({**facts, "network": NETWORK, "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
