"""Write the measured figures into README.md and docs/: between the marks ``<!-- results ... -->`` and ``<!-- /results -->``.

    python benchmarks/document_tables.py

Reads what the other scripts left in ``results/`` and measures nothing. A document whose results are not there stays as it is.
"""

import json
import re
from collections.abc import Iterable
from pathlib import Path
from statistics import mean, median
from typing import Any

from deployment_speed import OURS, fastest_peer
from harness import qat_rows
from harness.sentence_rows import ROWS
from harness.store import agreement
from harness.targets import full_cost
from harness.titles import IMAGENET_NETWORKS, IMAGENET_SHOWN, NETWORKS, PROGRAMS_SHOWN, ROUNDINGS_SHOWN, SETTINGS_SHOWN, TOOLS

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
IMAGENET_HEADING = "### ImageNet networks (500 images; top-1 / agreement with float / agreement on the mirror images, in %)"


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


def imagenet(results: dict[str, Any]) -> list[str]:
    """Top-1 and agreement with the float network's answers, on the images and on their mirror images, of every row that was measured."""
    rows = results["rows"]
    lines = [row(["", *IMAGENET_NETWORKS.values()]), row(["---", *["---:"] * len(IMAGENET_NETWORKS)])]
    for tool, title in IMAGENET_SHOWN.items():
        cells = []
        for network in IMAGENET_NETWORKS:
            found = rows.get(f"{network}/{tool}", {}).get("evaluation")
            if found is None:
                cells.append("")
                continue
            exact = rows[f"{network}/float"]["evaluation"]
            alike = [agreement(found[view], exact[view]) for view in ("predictions", "mirrored") if tool != "float"]
            cells.append(" / ".join(f"{figure:.1f}" for figure in (found["top1"], *alike)))
        if any(cells):
            lines.append(row([title, *cells]))
    return lines


def memory(results: dict[str, Any]) -> list[str]:
    lines = [row(["images", "peak memory, MB"]), row(["---:", "---:"])]
    return lines + [row([f"{entry['samples']:,}", f"{entry['peak_rss_bytes'] / 1e6:.0f}"]) for entry in results["rows"]]


def rounding(results: dict[str, Any]) -> list[str]:
    """ResNet-20: points lost to float by every row in every setting, and CPU seconds (their range over the settings)."""
    rows = results["rows"]
    exact = rows["resnet20/w4_tensor/float"]["top1"]
    lines = [row(["row", *SETTINGS_SHOWN.values(), "CPU s", "at 10,000 it."]), row(["---", *["---:"] * (len(SETTINGS_SHOWN) + 2)])]
    for name, title in ROUNDINGS_SHOWN.items():
        found = {setting: rows.get(f"resnet20/{setting}/{name}", {}) for setting in SETTINGS_SHOWN}
        measured = [entry for entry in found.values() if "top1" in entry]
        if measured:
            cells = [f"{exact - entry['top1']:.2f}" if "top1" in entry else "" for entry in found.values()]
            scaled = [full_cost(entry) for entry in measured if "loop_cpu_seconds" in entry]
            lines.append(row([title, *cells, spread(entry["method_cpu_seconds"] for entry in measured), spread(scaled)]))
    return lines


def other_networks(results: dict[str, Any]) -> list[str]:
    """Points lost by nearest and by the lattice solver on the other networks."""
    rows = results["rows"]
    lines = [row(["network", "row", *SETTINGS_SHOWN.values(), "CPU s"]), row(["---", "---", *["---:"] * (len(SETTINGS_SHOWN) + 1)])]
    for network in ("resnet56", "resnet8_mlperf", "nin", "mobilenet_v2"):
        exact = rows.get(f"{network}/w4_tensor/float", {}).get("top1")
        for name in ("halfstep_nearest", "halfstep_gptq", "halfstep_lattice", "halfstep_lattice_balanced", "mct_ptq"):
            found = [rows.get(f"{network}/{setting}/{name}", {}) for setting in SETTINGS_SHOWN]
            measured = [entry for entry in found if "top1" in entry]
            if exact is not None and measured:
                cells = [f"{exact - entry['top1']:.2f}" if "top1" in entry else "" for entry in found]
                seconds = spread(entry["method_cpu_seconds"] for entry in measured)
                lines.append(row([(NETWORKS | IMAGENET_NETWORKS)[network], ROUNDINGS_SHOWN[name], *cells, seconds]))
    return lines


def single_layers(results: dict[str, Any]) -> list[str]:
    """The error every solver leaves in the real layers and in a depthwise one, and its CPU milliseconds (their range over the layers)."""
    rows = results["layers"]
    places = list(dict.fromkeys((entry["layer"], entry["size"], entry["bits"]) for entry in rows))
    lines = [row(["method", *(f"d = {size}, W{bits}" for _, size, bits in places), "CPU ms", "depthwise, W3", "CPU ms"])]
    lines.append(row(["---", *["---:"] * (len(places) + 3)]))
    depthwise = {entry["method"]: entry for entry in results["depthwise"]}
    for method in dict.fromkeys(entry["method"] for entry in rows):
        found = {(entry["layer"], entry["size"], entry["bits"]): entry for entry in rows if entry["method"] == method}
        cells = [f"{found[place]['nmse_x100']:.3f}" for place in places]
        alone = depthwise.get(method)
        last = [f"{alone['nmse_x100']:.3f}", f"{alone['cpu_ms']:.1f}"] if alone else ["", ""]
        lines.append(row([method, *cells, spread(entry["cpu_ms"] for entry in found.values()), *last]))
    return lines


def sizes(results: dict[str, Any]) -> list[str]:
    """What the lattice solver costs in a layer of 512 rows, by the entries of a row."""
    lines = [row(["d", "effort", "error x 100", "CPU s", "MB more"]), row(["---:"] * 5)]
    for entry in results["sizes"]:
        more = (entry["memory_peak_bytes"] - entry["memory_before_bytes"]) / 1e6
        figures = f"{entry['nmse_x100']:.3f}", f"{entry['cpu_seconds']:.2f}", f"{more:.0f}"
        lines.append(row([f"{entry['size']:,}", str(entry["effort"]), *figures]))
    return lines


def integer_programs(results: dict[str, Any]) -> list[str]:
    """Top-1 of the integer program on every network, and on ResNet-20 its kB and the CPU seconds of the whole process; 256 images."""
    networks = ("resnet20", "resnet56", "resnet8_mlperf", "nin")
    lines = [row(["row", *(NETWORKS[name] for name in networks), "kB", "CPU s"]), row(["---", *["---:"] * (len(networks) + 2)])]
    for name, title in PROGRAMS_SHOWN.items():
        found = [results["rows"].get(f"{network}/256/{name}", {}) for network in networks]
        if not any("top1" in entry for entry in found):
            continue
        cells = [f"{entry['top1']:.2f}" if "top1" in entry else "" for entry in found]
        size = f"{found[0]['weight_bytes'] / 1e3:.0f}" if found[0].get("weight_bytes") else ""
        seconds = f"{found[0]['marks']['cpu']['quantized']:.1f}" if name != "float" and "marks" in found[0] else ""
        lines.append(row([title, *cells, size, seconds]))
    return lines


def thresholds(results: dict[str, Any]) -> list[str]:
    """Top-1 of two networks' integer programs by threshold of the activations and widths."""
    widths, networks = ("w8a8", "w4a8", "w8a4"), ("resnet20", "resnet8_mlperf")
    places = [(network, width) for network in networks for width in widths]
    heads = [f"{NETWORKS[network]} {width.upper()}" for network, width in places]
    lines = [row(["threshold", *heads]), row(["---", *["---:"] * len(places)])]
    prefix, suffix = f"{networks[0]}/256/", f"_{widths[0]}"
    stored = [key for key in results["rows"] if key.startswith(prefix) and key.endswith(suffix)]
    for name in (key.removeprefix(prefix).removesuffix(suffix) for key in stored):
        found = [results["rows"].get(f"{network}/256/{name}_{width}", {}) for network, width in places]
        if all("top1" in entry for entry in found):
            lines.append(row([f"`{name}`", *(f"{entry['top1']:.2f}" for entry in found)]))
    return lines


def speed(results: dict[str, Any]) -> list[str]:
    """CPU milliseconds of one image on one thread, and the ratio to ONNX Runtime's int8 in the same round."""
    rows = results["rows"]
    lines = [row(["", *(f"{NETWORKS[name]}, ms | of int8" for name in rows)]), row(["---", *["---:"] * (2 * len(rows))])]
    for name in next(iter(rows.values()))["ms"]:
        cells = [f"{entry['ms'][name]:.3f} | {entry['ratio_to_int8'][name]:.2f}" for entry in rows.values()]
        lines.append(row([name, *cells]))
    return lines


def sentences(results: dict[str, Any]) -> list[str]:
    """One line a file of the sentence encoder, in the order of the benchmark."""
    lines = [row(["file", "cosine, mean", "least", "rank", "CPU s", "MB", "ms", "what it is"]), row(["---", *["---:"] * 6, "---"])]
    for name in ROWS:
        found = results["evaluation"].get(name)
        if found is not None:
            own, file = results["rows"][name], [f"{found['bytes'] / 1e6:.1f}", f"{found['cpu_ms_median']:.1f}"]
            quality = [f"{found[key]:.4f}" for key in ("cosine_mean", "cosine_min", "spearman")]
            lines.append(row([f"`{name}`", *quality, f"{own['method_cpu_seconds']:.1f}", *file, own["note"]]))
    return lines


def saturation(results: dict[str, Any]) -> list[str]:
    """Files with 8- and 7-bit weights in both kinds of session: top-1, answers as float, milliseconds."""
    networks = results["networks"]
    titles = [NETWORKS.get(name) or IMAGENET_NETWORKS[name] for name in networks]
    lines = [row(["weights, session", *(f"{title}: top-1 | as float | ms" for title in titles)])]
    lines.append(row(["---", *["---:"] * (3 * len(titles))]))
    for name in next(iter(networks.values()))["rows"]:
        found = [entry["rows"][name] for entry in networks.values()]
        lines.append(row([name, *(f"{one['top1']:.2f} | {one['agreement']:.1f} | {one['milliseconds']:.2f}" for one in found)]))
    return lines


def training(results: dict[str, Any]) -> list[str]:
    """Every row of ResNet-20 that was trained."""
    rows = {name.removeprefix("resnet20/"): entry for name, entry in results["rows"].items() if name.startswith("resnet20/")}
    exact = rows["float"]["top1"]
    lines = [row(["row", "epochs", "top-1 %", "lost", "in float64 %", "integers %", "CPU s", "images/s"]), row(["---", *["---:"] * 7])]
    for name in (*qat_rows.ROWS, *qat_rows.PEERS):
        entry = rows.get(name, {})
        if "top1" in entry:
            integers = [qat_rows.percent(entry, key) for key in ("top1_float64", "integer")]
            figures = [f"{entry['epochs']:g}", f"{entry['top1']:.2f}", f"{exact - entry['top1']:.2f}", *integers]
            lines.append(row([f"`{name}`", *figures, f"{entry['method_cpu_seconds']:.0f}", f"{entry['images_per_second']:.0f}"]))
    return lines


def deployment(results: dict[str, Any]) -> list[str]:
    """CPU milliseconds of every tool's file by network and runtime, and ours beside the fastest of the others in the same rounds."""
    titles = ["network", "runtime", "float", "halfstep", "quantize_static", "NNCF", "AIMET", "times faster than float"]
    lines = [row([*titles, "halfstep / fastest other (10th to 90th percentile)"]), row(["---", "---", *["---:"] * 7])]
    for network, runtimes in results["times"].items():
        for runtime, times in runtimes.items():
            ours = OURS[runtime]
            beside = fastest_peer(times, ours)
            cells = [
                " / ".join(f"{times[name]['cpu_ms_median']:.2f}" for name in names if name in times)
                for names in (("float",), (ours,), ("ort",), ("nncf", "nncf_mixed"), ("aimet",))
            ]
            ratio = "" if beside is None else f"{beside[2]:.3f} ({beside[1]:.2f}-{beside[3]:.2f}) {beside[0]}"
            lines.append(row([network, runtime, *cells, f"{times[ours]['float_ratio_median']:.2f}", ratio]))
    return lines


def spread(seconds: Iterable[float]) -> str:
    """ "5 … 7", or nothing."""
    found = sorted(seconds)
    if not found:
        return ""
    low, high = (f"{value:.0f}" if value >= 10 else f"{value:.1f}" for value in (found[0], found[-1]))
    return low if low == high else f"{low} … {high}"


def stored(name: str) -> dict[str, Any] | None:
    path = HERE / "results" / f"{name}.json"
    return json.loads(path.read_text()) if path.is_file() else None


def write(document: Path, blocks: list[list[str]], name: str = "results") -> None:
    """Put the blocks between the document's marks of that name."""
    text = "\n\n".join("\n".join(block) for block in blocks)
    mark = re.compile(rf"(<!-- {name}:[^>]*-->\n).*(<!-- /{name} -->)", re.DOTALL)
    document.write_text(mark.sub(lambda match: f"{match[1]}\n{text}\n\n{match[2]}", document.read_text()))


def main() -> None:
    peers, counts, large = stored("int8_ptq"), stored("calibration_memory"), stored("int8_ptq_imagenet")
    if peers is not None and counts is not None:
        blocks = [
            ["### Accuracy (top-1 in %)", "", *accuracy(peers)],
            *([[IMAGENET_HEADING, "", *imagenet(large)]] if large is not None else []),
            ["### Cost and speed (means over the networks)", "", *cost(peers)],
            ["### Memory against the number of calibration images (ResNet-20)", "", *memory(counts)],
        ]
        write(ROOT / "README.md", blocks)
    below = stored("rounding")
    if below is not None:
        blocks = [["ResNet-20, points of top-1 lost:", "", *rounding(below)], ["Other networks:", "", *other_networks(below)]]
        layers = stored("solver_layers")
        if layers is not None:
            blocks += [["Error left in single layers, x 100:", "", *single_layers(layers)], ["512 rows, W3, lattice:", "", *sizes(layers)]]
        write(ROOT / "docs" / "rounding.md", blocks)
    programs, c = stored("integer_ptq"), stored("integer_speed")
    if programs is not None and c is not None:
        blocks = [["Top-1 of the integer program in %:", "", *integer_programs(programs)], ["Speed:", "", *speed(c)]]
        write(ROOT / "docs" / "integer_program.md", blocks)
        write(ROOT / "docs" / "normalization.md", [thresholds(programs)])
    saturated = stored("saturation")
    if saturated is not None:
        write(ROOT / "docs" / "deployment.md", [saturation(saturated)])
    with_vnni, without = stored("deployment_speed"), stored("deployment_speed_avx2")
    if with_vnni is not None and without is not None:
        blocks = [["With AVX-512 VNNI:", "", *deployment(with_vnni)], ["Without VNNI (AVX2):", "", *deployment(without)]]
        write(ROOT / "docs" / "deployment.md", blocks, "latency")
    trained = stored("qat")
    if trained is not None:
        write(ROOT / "docs" / "qat.md", [training(trained)])
    encoder = stored("sentence_encoder")
    if encoder is not None and encoder["evaluation"]:
        write(ROOT / "docs" / "weight_only.md", [sentences(encoder)])


if __name__ == "__main__":
    main()
