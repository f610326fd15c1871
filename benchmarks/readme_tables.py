"""Write the measured figures into README.md: between the marks ``<!-- results ... -->`` and ``<!-- /results -->``.

    python benchmarks/readme_tables.py

Reads ``results/int8_ptq.json`` and ``results/calibration_memory.json`` and measures nothing.
"""

import json
import re
from pathlib import Path
from statistics import mean, median
from typing import Any

HERE = Path(__file__).resolve().parent
README = HERE.parent / "README.md"
NETWORKS = {"resnet20": "ResNet-20", "resnet32": "ResNet-32", "resnet56": "ResNet-56", "resnet8_mlperf": "ResNet-8", "nin": "NiN"}
TOOLS = {
    "float": "float",
    "halfstep": "halfstep",
    "ort_default": "ONNX Runtime, defaults",
    "ort_best": "ONNX Runtime, best setting",
    "nncf_torch": "NNCF, torch module",
    "nncf_fx": "NNCF, torch.export",
    "nncf_onnx": "NNCF, ONNX",
    "nncf_onnx_light": "NNCF, ONNX, cheapest",
}


def row(cells: list[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def accuracy(results: dict[str, Any]) -> list[str]:
    """Top-1 of every tool on every network, and the mean and worst loss in points."""
    top1 = {tool: [results["rows"][f"{network}/{tool}"]["evaluation"]["top1"] for network in NETWORKS] for tool in TOOLS}
    lines = [row(["network", *TOOLS.values()]), row(["---", *["---:"] * len(TOOLS)])]
    for index, name in enumerate(NETWORKS.values()):
        lines.append(row([name, *(f"{top1[tool][index]:.2f}" for tool in TOOLS)]))
    losses = {tool: [exact - value for exact, value in zip(top1["float"], top1[tool], strict=True)] for tool in TOOLS}
    lines.append(row(["mean loss", *(f"{mean(losses[tool]):.2f}" for tool in TOOLS)]))
    lines.append(row(["worst loss", *(f"{max(losses[tool]):.2f}" for tool in TOOLS)]))
    return lines


def cost(results: dict[str, Any]) -> list[str]:
    """Means over the networks; latency as the mean of each network's ratio to float."""
    lines = [row(["tool", "CPU seconds", "peak memory, MB", "file, kB", "latency, float / int8"]), row(["---", *["---:"] * 4])]
    for tool, name in TOOLS.items():
        rows = [results["rows"][f"{network}/{tool}"] for network in NETWORKS]
        seconds = mean(median(run["cpu_seconds"] for run in entry["runs"]) for entry in rows)
        memory = mean(median(run["peak_rss_bytes"] for run in entry["runs"]) for entry in rows) / 1e6
        size = mean(entry["file_bytes"] for entry in rows) / 1e3
        ratios = [results["latency"][network][tool]["float_ratio_median"] for network in NETWORKS]
        lines.append(row([name, f"{seconds:.1f}", f"{memory:.0f}", f"{size:.0f}", f"{mean(ratios):.2f}"]))
    return lines


def memory(results: dict[str, Any]) -> list[str]:
    lines = [row(["images", "peak memory, MB"]), row(["---:", "---:"])]
    return lines + [row([f"{entry['samples']:,}", f"{entry['peak_rss_bytes'] / 1e6:.0f}"]) for entry in results["rows"]]


def main() -> None:
    peers = json.loads((HERE / "results" / "int8_ptq.json").read_text())
    counts = json.loads((HERE / "results" / "calibration_memory.json").read_text())
    blocks = [
        ["### Accuracy (top-1 in %)", "", *accuracy(peers)],
        ["### Cost and speed (means over the networks)", "", *cost(peers)],
        ["### Memory against the number of calibration images (ResNet-20)", "", *memory(counts)],
    ]
    text = "\n\n".join("\n".join(block) for block in blocks)
    mark = re.compile(r"(<!-- results:[^>]*-->\n).*(<!-- /results -->)", re.DOTALL)
    README.write_text(mark.sub(lambda match: f"{match[1]}\n{text}\n\n{match[2]}", README.read_text()))


if __name__ == "__main__":
    main()
