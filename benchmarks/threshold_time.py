"""What do the thresholds of a deep network cost, once the pass over the data is done?

    python benchmarks/threshold_time.py [--network resnet56] [--samples 256]

The histograms are those of one pass over training images, the weights those with batch norms folded, one scale for each output channel.
Every range estimator then finds scale and zero point of every quantized activation and of every weight. One thread; CPU milliseconds of the
fastest of three runs. Writes ``benchmarks/results/threshold_time.json``.
"""

import argparse
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

import halfstep as hs
from halfstep.graph.edges import activation_quantizers, behind_quantizer, quantizer_of
from halfstep.graph.edit import attribute
from halfstep.graph.operators import weighted_layers
from halfstep.grid import Grid
from halfstep.ranges import RANGES, AbstractRange, Distribution
from harness.data import NETWORKS, ROOT, networks_module
from harness.machine import commit, machine_facts, versions

HERE = Path(__file__).resolve().parent
BITS = (8, 4)
WEIGHTS_ON_DATA = "output_mse"  # finds its scales when a layer is rounded; without data it does what mse does
Tensors = list[tuple[Callable[[], Distribution], int | None]]


def quantized(network: str, samples: int) -> hs.Result:
    """The network, its statistics, and where its quantizers are."""
    module = networks_module()
    images, _ = module.load_split("train")
    return hs.quantize(module.load_network(network), module.normalize(images[:samples], network), "int8", samples=samples)


def activations(result: hs.Result) -> Tensors:
    """Of every activation with a grid: its distribution."""
    histograms = result.statistics.histograms
    names = [str(node.meta["name"]) for node in activation_quantizers(result.model).values()]
    return [(histograms[name].distribution, None) for name in names]


def weights(result: hs.Result) -> Tensors:
    """Of every quantized weight of the float network: its distribution, a row for each output channel."""

    def distribution(weight: Tensor, axis: int | None) -> Callable[[], Distribution]:
        return lambda: Distribution.of_tensor(weight, axis)

    found: Tensors = []
    for layer, twin in zip(weighted_layers(result.model), weighted_layers(result.float_model), strict=True):
        quantizer = quantizer_of(layer.weight)
        if quantizer is not None:
            axis = quantizer.grid.channel_axis
            found.append((distribution(attribute(result.float_model, behind_quantizer(twin.weight)), axis), axis))
    return found


def milliseconds(method: AbstractRange, tensors: Tensors, bits: int, is_weight: bool) -> float:
    """CPU time for all scales and zero points: distributions included, fastest of three runs."""
    best = float("inf")
    for _ in range(3):
        start = time.process_time()
        for distribution, axis in tensors:
            grid = Grid(bits, is_weight, is_weight, axis, is_weight)
            method.range(distribution(), grid).fit(grid)
        best = min(best, time.process_time() - start)
    return 1000 * best


def print_table(network: str, rows: list[dict[str, Any]], sizes: dict[str, int]) -> None:
    columns = [f"{role}, {bits} bits" for role in ("activations", "weights") for bits in BITS]
    title = f"{network}: CPU ms for {sizes['activations']} activations and {sizes['weights']} weights ({sizes['weight_entries']:,} entries)"
    table = Table("range", *(f"{name[0].upper()}{name.split()[1]}" for name in columns), title=title, title_justify="left")
    for row in rows:
        table.add_row(row["range"], *(f"{row['cpu_ms'][name]:.0f}" for name in columns))
    Console().print(table)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--network", choices=NETWORKS, default="resnet56")
    parser.add_argument("--samples", type=int, default=256)
    parser.add_argument("--out", type=Path, default=HERE / "results" / "threshold_time.json")
    given = parser.parse_args()
    torch.set_num_threads(1)
    result = quantized(given.network, given.samples)
    tensors = {"activations": activations(result), "weights": weights(result)}
    entries = sum(distribution().values.numel() for distribution, _ in tensors["weights"])
    sizes = {role: len(found) for role, found in tensors.items()} | {"weight_entries": entries}
    rows = []
    for name in (name for name in RANGES if name != WEIGHTS_ON_DATA):
        method = RANGES.create(name)
        times = {
            f"{role}, {bits} bits": milliseconds(method, found, bits, role == "weights") for bits in BITS for role, found in tensors.items()
        }
        rows.append({"range": name, "options": method.full_spec(), "cpu_ms": times})
    print_table(given.network, rows, sizes)
    settings = {"network": given.network, "samples": given.samples, "sizes": sizes}
    facts = {"machine": machine_facts(), "commit": commit(ROOT), "versions": versions(Path(sys.executable))}
    given.out.write_text(json.dumps({"settings": settings, **facts, "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
