"""What quantizers add to a training step on the CPU: one step with them over one float step, for each method.

    python benchmarks/qat_overhead.py [--batch 128] [--bits 4] [--rounds 15] [--profile lsq]

ResNet-20 on CIFAR-10, one thread. Float: the trained network in training mode, batch norms and all; quantized: what ``halfstep.prepare``
makes of it. Both: cross-entropy, gradients, SGD with momentum (and Adam for what quantizers learn). All kinds take a step in turn, so that
a busy machine hurts all alike; figures are medians of CPU seconds. The result goes to benchmarks/results/qat_overhead.json.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

import halfstep as hs
from halfstep.quantizers import QUANTIZERS, AbstractLearnedQuantizer
from harness.data import ROOT, networks_module
from harness.machine import commit, machine_facts

NETWORK = "resnet20"
TARGET = 1.6
OUT = Path(__file__).parent / "results" / "qat_overhead.json"


def recipe(method: str, bits: int) -> hs.Recipe:
    """Nearest rounding and the quantizers of ``method``; what comes before training does not count."""
    content = {
        "name": method,
        "scheme": {
            "weights": {"type": f"int{bits}"},
            "activations": {"type": f"uint{bits}", "symmetric": False},
            "inputs": "uint8",
            "addends": "uint8",
        },
        "steps": ["fold_batch_norm", "place_quantizers", "calibrate", "round", {"finetune": {"weights": method, "activations": method}}],
    }
    return hs.Recipe.parse(content)


def training_step(model: torch.nn.Module, optimizers: list[torch.optim.Optimizer], x: torch.Tensor, y: torch.Tensor) -> Callable[[], None]:
    def step() -> None:
        for optimizer in optimizers:
            optimizer.zero_grad()
        torch.nn.functional.cross_entropy(model(x), y).backward()
        for optimizer in optimizers:
            optimizer.step()

    model.train()
    return step


def steps(batch: int, bits: int, methods: list[str]) -> dict[str, Callable[[], None]]:
    """By name, a function that trains for one step."""
    module = networks_module()
    images, labels = module.load_split("train")
    x = module.normalize(images[:512], NETWORK)
    batch_x = x[:batch].contiguous(memory_format=torch.channels_last)
    batch_y = torch.from_numpy(labels[:batch]).long()
    network = module.load_network(NETWORK).to(memory_format=torch.channels_last)
    made = {"float": training_step(network, [torch.optim.SGD(network.parameters(), 1e-4, momentum=0.9)], batch_x, batch_y)}
    for method in methods:
        prepared = hs.prepare(module.load_network(NETWORK), x, recipe(method, bits))
        optimizers: list[torch.optim.Optimizer] = [torch.optim.SGD(prepared.weight_parameters(), 1e-4, momentum=0.9)]
        optimizers += [torch.optim.Adam(prepared.scale_parameters(), 1e-5)] if prepared.scale_parameters() else []
        made[method] = training_step(prepared, optimizers, batch_x, batch_y)
    return made


def measure(made: dict[str, Callable[[], None]], rounds: int) -> dict[str, float]:
    """Median CPU seconds of each."""
    spent: dict[str, list[float]] = {name: [] for name in made}
    for _ in range(rounds + 2):
        for name, step in made.items():
            start = time.process_time()
            step()
            spent[name].append(time.process_time() - start)
    return {name: statistics.median(seconds[2:]) for name, seconds in spent.items()}


def profile(step: Callable[[], None]) -> None:
    """Where the time of a step goes."""
    step()
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as found:
        step()
    print(found.key_averages().table(sort_by="self_cpu_time_total", row_limit=25))


def main() -> None:
    learned = [name for name in QUANTIZERS if issubclass(QUANTIZERS[name], AbstractLearnedQuantizer)]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--bits", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--methods", default=",".join(learned))
    parser.add_argument("--profile", choices=learned, default=None)
    given = parser.parse_args()
    torch.set_num_threads(1)
    if given.profile:
        profile(steps(given.batch, given.bits, [given.profile])[given.profile])
        return
    found = measure(steps(given.batch, given.bits, given.methods.split(",")), given.rounds)
    ratios = {name: seconds / found["float"] for name, seconds in found.items()}
    table = Table("step", "CPU ms", "over float", title=f"{NETWORK}, batches of {given.batch}, W{given.bits}A{given.bits}")
    for name, seconds in found.items():
        table.add_row(name, f"{1e3 * seconds:.0f}", f"{ratios[name]:.2f}")
    Console().print(table)
    if "lsq" in ratios:
        print(f"lsq: at most {TARGET} asked, {'reached' if ratios['lsq'] <= TARGET else 'NOT reached'}")
    stored: dict[str, Any] = {"batch": given.batch, "bits": given.bits, "seconds": found, "ratios": ratios}
    OUT.parent.mkdir(exist_ok=True)
    OUT.write_text(json.dumps(stored | {"machine": machine_facts(), "commit": commit(ROOT), "torch": torch.__version__}, indent=1) + "\n")


if __name__ == "__main__":
    main()
