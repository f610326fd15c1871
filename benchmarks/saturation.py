"""Sums of products that saturate: 8- and 7-bit weights in ONNX Runtime, with its defaults and with exact products.

    python benchmarks/saturation.py
    python benchmarks/saturation.py --networks resnet20

Kernels for x64 processors without VNNI add two products of uint8 and int8 in 16 bits. Each network is quantized with the recipe `int8` and
with its weights on 7 bits instead, and each file runs in a session with ONNX Runtime's defaults and in one with the option
``session.x64quantprecision``. Top-1 on the validation images, share of equal answers with the float file, CPU milliseconds of one image on
one thread, all files and sessions of a network in turn. On a processor with VNNI the two sessions show the same. Prints a table and writes
``benchmarks/results/saturation.json``.
"""

import argparse
import json
import sys
import tempfile
from pathlib import Path
from statistics import median
from time import process_time
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

import halfstep as hs
from harness.data import ALL_NETWORKS, ROOT, dataset_of, networks_module, write_calibration
from harness.evaluation import predictions
from harness.latency import named_inputs, open_session, random_inputs
from harness.machine import commit, machine_facts, versions
from harness.peer import calibration_images, trained_network
from harness.torch_onnx import export

HERE = Path(__file__).resolve().parent
ROUNDS = 60
SESSIONS = {"defaults": False, "exact": True}


def seven_bits() -> hs.Recipe:
    """The recipe `int8` with one bit less for weights."""
    recipe = hs.Recipe.load("int8")
    weights = recipe.scheme.weights.model_copy(update={"type": "int7"})
    return recipe.model_copy(update={"name": "int7", "scheme": recipe.scheme.model_copy(update={"weights": weights})})


def write_files(network: str, folder: Path, samples: int) -> dict[str, Path]:
    """float, int8 and int7."""
    write_calibration(network, samples, 0, folder / "calibration.npy")
    inputs, model = torch.from_numpy(calibration_images(folder / "calibration.npy")), trained_network(network)
    files = {name: folder / f"{name}.onnx" for name in ("float", "int8", "int7")}
    export(model, inputs[:2], files["float"], "dynamo")
    for name, recipe in (("int8", hs.Recipe.load("int8")), ("int7", seven_bits())):
        hs.export.onnx(hs.quantize(model, inputs, recipe, samples=len(inputs)), files[name])
    return files


def accuracies(network: str, files: dict[str, Path]) -> dict[str, dict[str, float]]:
    """By "file, session": top-1 and agreement with the float file, in percent."""
    module = networks_module(dataset_of(network))
    images, labels = module.load_split("validation")
    inputs = module.normalize(images, network).numpy()
    exact = predictions(files["float"], inputs)
    found = {"float": {"top1": 100 * float((exact == labels).mean()), "agreement": 100.0}}
    for name in ("int8", "int7"):
        for session, is_exact in SESSIONS.items():
            classes = predictions(files[name], inputs, is_exact)
            found[f"{name}, {session}"] = {
                "top1": 100 * float((classes == labels).mean()),
                "agreement": 100 * float((classes == exact).mean()),
            }
    return found


def milliseconds(files: dict[str, Path]) -> dict[str, float]:
    """By "file, session": the median of `ROUNDS` runs of one image, all in turn."""
    sessions = {"float": open_session(files["float"])}
    sessions |= {f"{name}, {key}": open_session(files[name], is_exact) for name in ("int8", "int7") for key, is_exact in SESSIONS.items()}
    feeds = {name: named_inputs(session, random_inputs(session, 0)) for name, session in sessions.items()}
    seconds: dict[str, list[float]] = {name: [] for name in sessions}
    for number in range(ROUNDS + 5):
        for name, session in sessions.items():
            begun = process_time()
            session.run(None, feeds[name])
            if number >= 5:
                seconds[name].append(process_time() - begun)
    return {name: 1e3 * median(taken) for name, taken in seconds.items()}


def measure(network: str, samples: int) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        files = write_files(network, Path(folder), samples)
        rows, taken = accuracies(network, files), milliseconds(files)
        notes = {name: list(hs.check_onnx(files[name], ("onnxruntime",)).notes) for name in ("int8", "int7")}
    return {"rows": {name: row | {"milliseconds": taken[name]} for name, row in rows.items()}, "notes": notes}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", default="resnet20,resnet56,mobilenet_v2,squeezenet1_1", help=f"of: {', '.join(ALL_NETWORKS)}")
    parser.add_argument("--samples", type=int, default=512, help="images to calibrate on")
    parser.add_argument("--out", type=Path, default=HERE / "results" / "saturation.json")
    given = parser.parse_args()
    console, networks = Console(width=None if sys.stdout.isatty() else 140), {}
    for network in given.networks.split(","):
        networks[network] = measure(network, given.samples)
        table = Table("file, session", "top-1 %", "as float %", "ms", title=network, title_justify="left")
        for name, row in networks[network]["rows"].items():
            table.add_row(name, f"{row['top1']:.2f}", f"{row['agreement']:.1f}", f"{row['milliseconds']:.2f}")
        console.print(table)
    facts = {"machine": machine_facts(), "commit": commit(ROOT), "versions": versions(Path(sys.executable)), "seed": 0}
    given.out.write_text(json.dumps(facts | {"samples": given.samples, "networks": networks}, indent=1) + "\n")
    console.print(f"stored in {given.out}")


if __name__ == "__main__":
    main()
