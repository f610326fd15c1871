"""int8 post-training quantization: halfstep beside ONNX Runtime's quantizer and NNCF, on the same images.

    python benchmarks/int8_ptq.py                    every CIFAR-10 network, the rows of the claim
    python benchmarks/int8_ptq.py --imagenet         the ImageNet networks, with rows of one scale a weight tensor and of equalization
    python benchmarks/int8_ptq.py --quick            two networks, four rows, few images: does it run?
    python benchmarks/int8_ptq.py --tools all        also the settings that were tried and are not rows of the claim
    python benchmarks/int8_ptq.py --redo halfstep    measure one tool again, keep the others

Each row starts from the trained torch module and 512 training images (the same seeded choice for every tool) and ends with an int8 ONNX
file on disk (the ImageNet images are all that there are). Costs: a fresh process with one thread, measured from outside, imports
included. Accuracy: the ONNX file in ONNX Runtime on 5,000 other images (500 of ImageNet). Latency: all files of a network in one process,
batch 1, in turn. Finished rows are kept in the JSON file and not measured again, unless their settings changed.
"""

import argparse
import json
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from harness.data import ALL_NETWORKS, IMAGENET_NETWORKS, NETWORKS, data_folder, dataset_of
from harness.store import Store, chosen_names, interpreters
from harness.tables import print_means, print_network
from harness.tools import CLAIMED, INSTALL, NNCF, OWN, QUICK, SCALES, TOOLS, Tool

HERE = Path(__file__).resolve().parent
LIMIT_SECONDS = 3600.0
QUICK_NETWORKS = ("resnet20", "resnet8_mlperf")


@dataclass(frozen=True)
class Settings:
    """What a stored row must agree with to be kept."""

    samples: int
    seed: int
    images: int | None
    rounds: int
    repeats: int


class Benchmark(Store):
    """One run: the rows, and the latencies of their files."""

    def __init__(self, settings: Settings, pythons: dict[str, Path], out: Path, console: Console) -> None:
        super().__init__(out, asdict(settings), ("rows", "latency"), pythons, LIMIT_SECONDS)
        self.settings, self.console = settings, console
        self.warmed: set[tuple[str, str]] = set()

    def forget(self, tools: list[str]) -> None:
        for key in [key for key in self.results["rows"] if key.split("/")[1] in tools]:
            network = key.split("/")[0]
            del self.results["rows"][key]
            self.results["latency"].pop(network, None)

    def model_path(self, network: str, tool: str) -> Path:
        return self.work / f"{network}.{tool}.onnx"

    def _images(self, network: str) -> Path:
        return self.calibration(network, self.settings.samples, self.settings.seed)

    def row(self, network: str, tool: Tool) -> None:
        """Make, measure and evaluate one row, unless a finished one is stored."""
        key = f"{network}/{tool.name}"
        stored, python = self.results["rows"].get(key, {}), self.pythons[tool.environment]
        if "evaluation" in stored and stored["options"] == list(tool.options) and self.model_path(network, tool.name).is_file():
            return
        self.console.log(f"{key} {' '.join(tool.options)}")
        entry: dict[str, Any] = {"options": list(tool.options), "note": tool.note}
        self.results["rows"][key] = entry
        self.results["latency"].pop(network, None)
        if python.is_file():
            self._measure(network, tool, entry)
        else:
            entry["missing"] = f"not installed: run {INSTALL[tool.environment]}"
        self.save()

    def _measure(self, network: str, tool: Tool, entry: dict[str, Any]) -> None:
        model, marks = self.model_path(network, tool.name), self.work / f"{network}.{tool.name}.marks.json"
        model.unlink(missing_ok=True)
        arguments = [str(HERE / "peers" / tool.script), "--network", network, "--calibration", str(self._images(network))]
        arguments += ["--out", str(model), "--marks", str(marks), *tool.options]
        python, log = self.pythons[tool.environment], f"{network}.{tool.name}.log"
        if (tool.environment, tool.script) not in self.warmed:  # files from a cold disk and byte code are not a tool's cost
            self.run(python, arguments, log)
            self.warmed.add((tool.environment, tool.script))
        runs = [self.run(python, arguments, log) for _ in range(self.settings.repeats)]
        failed = next((run for run in runs if run.return_code != 0), None)
        if failed is not None or not model.is_file():
            entry["missing"] = f"failed: {(failed or runs[-1]).log_tail.splitlines()[-1:]}; see {log}"
            return
        entry |= {"runs": [run.as_json() | {"log_tail": ""} for run in runs], "marks": json.loads(marks.read_text())}
        entry["file_bytes"] = model.stat().st_size
        entry |= self._evaluated(network, model)

    def _evaluated(self, network: str, model: Path) -> dict[str, Any]:
        """Some tools write files that ONNX Runtime does not load."""
        report, log = model.with_suffix(".evaluation.json"), f"{model.stem}.evaluation.log"
        limited = [] if self.settings.images is None else ["--images", str(self.settings.images)]
        arguments = ["--network", network, "--model", str(model), "--out", str(report), *limited]
        done = self.run(self.pythons[OWN], ["-m", "harness.evaluation", *arguments], log)
        if done.return_code != 0:
            reason = done.log_tail.splitlines()[-1:]
            return {"missing": f"its file does not run: {reason}; see {log}".replace(f"{model.parent}/", "")}
        return {"evaluation": json.loads(report.read_text())}

    def latency(self, network: str, tools: list[str]) -> None:
        """Time every finished file of ``network`` side by side; done again whenever one of them is new."""
        finished = [name for name in tools if "evaluation" in self.results["rows"].get(f"{network}/{name}", {})]
        if not finished or set(finished) <= set(self.results["latency"].get(network, {})):
            return
        self.console.log(f"{network}: latency of {len(finished)} files")
        report = self.work / f"{network}.latency.json"
        models = [f"{name}={self.model_path(network, name)}" for name in finished]
        self.module("latency", *models, "--rounds", str(self.settings.rounds), "--out", str(report))
        self.results["latency"][network] = json.loads(report.read_text())
        self.save()


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", default=None, help=f"comma-separated, of: {', '.join(ALL_NETWORKS)}")
    parser.add_argument("--imagenet", action="store_true", help="the ImageNet networks, and the rows for them")
    parser.add_argument("--tools", default=None, help=f"comma-separated or 'all', of: {', '.join(TOOLS)}")
    parser.add_argument("--redo", default="", help="comma-separated tools to measure again")
    parser.add_argument("--samples", type=int, default=512)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--rounds", type=int, help="timed rounds of the latency part: 300, 40 with --imagenet")
    parser.add_argument("--repeats", type=int, default=1, help="measured runs a row; their median is shown")
    parser.add_argument("--venv", action="append", default=[], metavar="NAME=DIR", help=f"environment of a peer, e.g. {NNCF}=.venv-nncf")
    parser.add_argument("--quick", action="store_true", help="two networks, four rows, 1,000 images, 50 rounds")
    parser.add_argument("--out", type=Path, default=None, help="JSON file; default results/int8_ptq.json or int8_ptq_imagenet.json")
    return parser.parse_args()


def main() -> None:
    given = _arguments()
    unasked = QUICK_NETWORKS if given.quick else IMAGENET_NETWORKS if given.imagenet else NETWORKS
    networks = chosen_names(given.networks, unasked, ALL_NETWORKS, "network")
    for dataset in {dataset_of(network) for network in networks}:
        data_folder(dataset)
    tools = chosen_names(given.tools, QUICK if given.quick else CLAIMED + SCALES * given.imagenet, tuple(TOOLS), "tool")
    rounds, images = (50, 1000) if given.quick else (given.rounds or (40 if given.imagenet else 300), None)
    settings = Settings(given.samples, given.seed, images, rounds, given.repeats)
    kind = "_quick" if given.quick else "_imagenet" if given.imagenet else ""
    out = given.out or HERE / "results" / f"int8_ptq{kind}.json"
    console = Console(width=None if sys.stdout.isatty() else 200)
    benchmark = Benchmark(settings, interpreters(given.venv, (NNCF,)), out.resolve(), console)
    benchmark.forget(chosen_names(given.redo, (), tuple(TOOLS), "tool") if given.redo else [])
    benchmark.describe()
    for network in networks:
        for tool in tools:
            benchmark.row(network, TOOLS[tool])
        benchmark.latency(network, tools)
        print_network(console, benchmark.results, network, tools)
    print_means(console, benchmark.results, networks, tools)
    console.print(f"written to {out}")


if __name__ == "__main__":
    main()
