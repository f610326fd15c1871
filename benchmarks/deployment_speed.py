"""How fast are the int8 files of halfstep, ONNX Runtime's quantizer, NNCF and AIMET, in ONNX Runtime and in OpenVINO?

    python benchmarks/deployment_speed.py                         every network, every tool
    python benchmarks/deployment_speed.py --networks squeezenet1_1 --redo halfstep,halfstep_openvino
    python benchmarks/deployment_speed.py --onnx minilm=minilm.onnx     a network that is a float ONNX file (AIMET has no way in)

ResNet-18 with random weights, MobileNetV2 and SqueezeNet 1.1 at 224x224. Every tool calibrates on 32 random inputs: speed does not depend
on them. All files of a network are timed in one process in turn, in shuffled order, batch 1, one thread, each timed run behind an untimed
one; CPU time, since it suffers least from other work on the machine, and wall time. The ratio of two files is the median over the rounds.
Where a process happens to put a file's weights in memory changes a ratio by some percent: every figure is the median of three processes.
OpenVINO runs in an environment of its own (``make bench-openvino-env``) that also holds ONNX Runtime.
"""

import argparse
import json
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

from rich.console import Console
from rich.table import Table

from harness.kernels import executed_operators, summary
from harness.speed_networks import NETWORKS
from harness.store import Store, chosen_names, interpreters
from harness.tools import AIMET, NNCF, OPENVINO, OWN

HERE = Path(__file__).resolve().parent
LIMIT_SECONDS = 1800.0
RUNTIMES = {"onnxruntime": OWN, "openvino": OPENVINO}
OURS = {"onnxruntime": "halfstep", "openvino": "halfstep_openvino"}
FLOAT = "float"


@dataclass(frozen=True)
class Tool:
    """One row: ``options`` of ``peers/speed_file.py`` and the environment it runs in."""

    name: str
    environment: str
    options: tuple[str, ...]
    note: str


TOOLS = {
    tool.name: tool
    for tool in (
        Tool(FLOAT, OWN, ("--tool", "float"), "torch.onnx.export of the network"),
        Tool("halfstep", OWN, ("--tool", "halfstep"), "recipe int8, target onnxruntime"),
        Tool("halfstep_openvino", OWN, ("--tool", "halfstep", "--target", "openvino"), "recipe int8, target openvino"),
        Tool("ort", OWN, ("--tool", "ort"), "quantize_static: uint8 activations, int8 weights per channel, pre-processed"),
        Tool("nncf", NNCF, ("--tool", "nncf"), "nncf.quantize of the float file"),
        Tool("nncf_mixed", NNCF, ("--tool", "nncf", "--mixed"), "the same with asymmetric activations"),
        Tool("aimet", AIMET, ("--tool", "aimet"), "QuantizationSimModel per channel, aimet_torch.onnx.export"),
    )
}
PEERS = ("ort", "nncf", "nncf_mixed", "aimet")


@dataclass(frozen=True)
class Settings:
    """What a stored row must agree with to be kept."""

    rounds: int
    processes: int


class Benchmark(Store):
    """The files of every network, and their times."""

    def __init__(self, settings: Settings, pythons: dict[str, Path], out: Path, sources: dict[str, Path]) -> None:
        super().__init__(out, asdict(settings), ("rows", "times"), pythons, LIMIT_SECONDS)
        self.settings, self.sources = settings, sources

    def path(self, network: str, tool: str) -> Path:
        return self.sources[network] if tool == FLOAT and network in self.sources else self.work / f"{network}.{tool}.onnx"

    def row(self, network: str, tool: Tool) -> None:
        """The file of one tool, unless it is there."""
        key, path, log = f"{network}/{tool.name}", self.path(network, tool.name), f"{network}.{tool.name}.log"
        if not path.is_file():
            self.results["times"].pop(network, None)
            arguments = ["-m", "peers.speed_file", *tool.options, "--network", network, "--source", str(self.path(network, FLOAT))]
            if not self.pythons[tool.environment].is_file():
                self.results["rows"][key] = {"missing": f"no environment '{tool.environment}'"}
                return
            done = self.run(self.pythons[tool.environment], [*arguments, "--out", str(path)], log)
            if done.return_code or not path.is_file():
                self.results["rows"][key] = {"missing": f"failed: {done.log_tail.splitlines()[-1:]}; see {log}"}
                return
        try:
            operators = executed_operators(path)
        except Exception as error:  # ONNX Runtime's errors have no class of their own
            reason = str(error).splitlines()[0].replace(f"{path.parent}/", "")
            self.results["rows"][key] = {"missing": f"ONNX Runtime does not load its file: {reason}"}
            return
        self.results["rows"][key] = {"note": tool.note, "bytes": path.stat().st_size, "operators": operators}
        self.save()

    def time(self, network: str, runtime: str) -> None:
        """All files of ``network`` in turn."""
        if runtime in self.results["times"].get(network, {}) or not self.pythons[RUNTIMES[runtime]].is_file():
            return
        loaded = [name for name in TOOLS if "operators" in self.results["rows"].get(f"{network}/{name}", {})]
        models = [f"{name}={self.path(network, name)}" for name in loaded]
        runs = [self._timed(f"{network}.{runtime}", models, runtime, seed) for seed in range(self.settings.processes)]
        middle = {name: {figure: median(run[name][figure] for run in runs) for figure in runs[0][name]} for name in runs[0]}
        self.results["times"].setdefault(network, {})[runtime] = middle
        self.save()

    def _timed(self, name: str, models: list[str], runtime: str, seed: int) -> dict[str, dict[str, float]]:
        """The figures of one process."""
        report = self.work / f"{name}.json"
        arguments = ["-m", "harness.latency", *models, "--runtime", runtime, "--rounds", str(self.settings.rounds), "--seed", str(seed)]
        done = self.run(self.pythons[RUNTIMES[runtime]], [*arguments, "--out", str(report)], f"{name}.log")
        if done.return_code:
            sys.exit(f"harness.latency failed:\n{done.log_tail}")
        return dict(json.loads(report.read_text()))


def show(console: Console, results: dict[str, Any], network: str, runtime: str) -> None:
    """One row a file: CPU and wall milliseconds, how many times faster than float, and our CPU time over its."""
    times, ours = results["times"].get(network, {}).get(runtime), OURS[runtime]
    if times is None:
        return
    table = Table(title=f"{network} in {runtime}, batch 1, one thread", title_justify="left")
    for header in ("file", "CPU ms", "10-90 %", "wall ms", "x float", f"{ours} / it", "10-90 %", "kB", "ONNX Runtime's kernels"):
        table.add_column(header, justify="left" if header in ("file", "ONNX Runtime's kernels") else "right")
    for name, found in times.items():
        row = results["rows"][f"{network}/{name}"]
        low, middle, high = (found[f"{ours}_ratio_{part}"] for part in ("p10", "median", "p90"))
        table.add_row(
            name, f"{found['cpu_ms_median']:.3f}", f"{found['cpu_ms_p10']:.3f}-{found['cpu_ms_p90']:.3f}", f"{found['wall_ms_median']:.2f}",
            f"{found['float_ratio_median']:.2f}", f"{middle:.3f}", f"{low:.3f}-{high:.3f}",
            f"{row['bytes'] / 1e3:.0f}", summary(row["operators"]),
        )  # fmt: skip
    console.print(table)
    console.print(verdict(times, ours))


def fastest_peer(times: dict[str, Any], ours: str) -> tuple[str, float, float, float] | None:
    """Its name and the 10th percentile, median and 90th percentile of our CPU time over its, in the same rounds; None without a peer."""
    best = min((name for name in PEERS if name in times), key=lambda name: times[name]["cpu_ms_median"], default=None)
    if best is None:
        return None
    low, middle, high = (float(times[best][f"{ours}_ratio_{part}"]) for part in ("p10", "median", "p90"))
    return best, low, middle, high


def verdict(times: dict[str, Any], ours: str) -> str:
    """Our CPU time beside that of the fastest peer."""
    found = fastest_peer(times, ours)
    if found is None:
        return "no peer to compare with"
    best, low, middle, high = found
    words = "at most" if middle <= 1.0 else "within the spread" if low <= 1.0 else "SLOWER"
    return f"{ours} / {best}, the fastest peer: {middle:.3f} [{low:.3f}-{high:.3f}], {words}"


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", default=None, help=f"comma-separated, of: {', '.join(NETWORKS)}")
    parser.add_argument("--onnx", action="append", default=[], metavar="NAME=FILE", help="a further network, as a float ONNX file")
    parser.add_argument("--redo", default="", help="comma-separated tools whose files are made again")
    parser.add_argument("--rounds", type=int, default=60, help="of each process")
    parser.add_argument("--processes", type=int, default=3, help="whose medians are shown")
    parser.add_argument("--venv", action="append", default=[], metavar="NAME=DIR", help=f"environment, e.g. {OPENVINO}=.venv-openvino")
    parser.add_argument("--out", type=Path, default=HERE / "results" / "deployment_speed.json")
    return parser.parse_args()


def main() -> None:
    given = _arguments()
    sources = {name: Path(path).resolve() for name, _, path in (text.partition("=") for text in given.onnx)}
    networks = [*chosen_names(given.networks, NETWORKS, NETWORKS, "network"), *sources]
    pythons = interpreters(given.venv, (NNCF, AIMET, OPENVINO))
    benchmark = Benchmark(Settings(given.rounds, given.processes), pythons, given.out.resolve(), sources)
    console = Console(width=None if sys.stdout.isatty() else 200)
    redone = chosen_names(given.redo, (), tuple(TOOLS), "tool") if given.redo else []
    benchmark.describe()
    for network in networks:
        for name in redone:
            benchmark.path(network, name).unlink(missing_ok=True)
        for tool in TOOLS.values():
            if not (network in sources and tool.environment == AIMET):
                benchmark.row(network, tool)
        for runtime in RUNTIMES:
            benchmark.time(network, runtime)
            show(console, benchmark.results, network, runtime)
    benchmark.save()
    console.print(f"written to {given.out}")


if __name__ == "__main__":
    main()
