"""How small do the solvers make one layer's error, and what do they cost? Three layers of ResNet-20 at 3 and 2 bits, a depthwise layer, and
layers of 512 rows and up to 4,608 entries.

    python benchmarks/solver_layers.py [--quick]

The moments are those of 1,024 training images at 16 random output positions each, the held-out error is that of the next 1,024. Every row
solves the same problem: inputs as in the float network, one scale a channel by squared error, the scale held unless the row says "scale".
Errors are relative to the layer's output and about the means where the bias is free ("bias"). One thread; CPU milliseconds of the fastest
of three runs, compilation apart. --quick: fewer runs, sizes and iterations. Writes ``benchmarks/results/solver_layers.json``.
"""

import argparse
import json
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from halfstep.grid import Grid
from halfstep.ranges import Distribution, MeanSquaredError
from halfstep.rounding import ROUNDINGS, LayerSamples, LinearOperator, Moments, RoundingProblem
from halfstep.solvers import warm_up
from halfstep.stopwatch import peak_rss_bytes
from harness.data import ROOT, data_folder, networks_module
from harness.machine import commit, machine_facts, versions
from harness.measured import run_measured

HERE = Path(__file__).resolve().parent
LAYERS = ("layer1.1.conv1", "layer2.1.conv1", "layer3.1.conv1")
OPERATOR = LinearOperator((1, 1), (1, 1), (1, 1))
IMAGES, POSITIONS = 1024, 16
SIZES = (144, 288, 576, 1152, 2304, 4608)
HELD = {"asymmetric": False, "centred": False, "damping": 0.01}
METHODS: dict[str, Any] = {
    "nearest": "nearest",
    "gptq": {"gptq": HELD},
    "coordinate_descent": {"coordinate_descent": HELD},
    **{f"lattice {effort}": {"lattice": {**HELD, "effort": effort, "refit_scale": False}} for effort in range(1, 6)},
    "lattice 3, bias, scale": {"lattice": {**HELD, "centred": True}},
    "lattice 5, bias, scale": {"lattice": {**HELD, "centred": True, "effort": 5}},
}


def captured(network: torch.nn.Module, images: Tensor) -> dict[str, Tensor]:
    """What each of the layers receives."""
    found: dict[str, list[Tensor]] = {name: [] for name in LAYERS}
    modules = dict(network.named_modules())
    hooks = [modules[name].register_forward_hook(lambda _, given, __, name=name: found[name].append(given[0])) for name in LAYERS]
    with torch.no_grad():
        for batch in images.split(128):
            network(batch)
    for hook in hooks:
        hook.remove()
    return {name: torch.cat(parts) for name, parts in found.items()}


def folded(network: torch.nn.Module, name: str) -> Tensor:
    """The layer's weight with the batch norm behind it folded in."""
    modules = dict(network.named_modules())
    norm, weight = modules[name.replace("conv", "bn")], modules[name].weight.detach()
    return weight * (norm.weight / (norm.running_var + norm.eps).sqrt()).detach()[:, None, None, None]


def moments_of(inputs: Tensor, weight: Tensor, operator: LinearOperator) -> Moments:
    generator = torch.Generator().manual_seed(0)
    positions = torch.randint(operator.num_positions(inputs, weight), (len(inputs), POSITIONS), generator=generator)
    patches = operator.patches(inputs, weight, positions).double()
    gram, mean = patches.mT @ patches / patches.shape[1], patches.mean(1)
    return Moments(gram, gram, mean, mean, patches.shape[1])


def problem_of(weight: Tensor, moments: Moments, bits: int, operator: LinearOperator) -> RoundingProblem:
    grid = Grid(bits, True, True, 0)
    scale, zero_point = MeanSquaredError().range(Distribution.of_tensor(weight, 0), grid).fit(grid)
    return RoundingProblem(weight, scale.float(), zero_point.float(), grid, operator, moments=moments)


def error(problem: RoundingProblem, weight: Tensor, moments: Moments, frees_bias: bool) -> float:
    """E |W x - W' x|^2 / E |W x|^2 times 100; with the bias that the problem's own means give where it is free."""
    assert problem.moments is not None
    rows = problem.operator.rows
    missed, real = (rows(tensor).double() for tensor in (weight - problem.weight, problem.weight))
    size = ((real @ moments.gram) * real).sum()
    left = ((missed @ moments.gram) * missed).sum(-1)
    if frees_bias:
        shift, here = ((missed * part.mean[:, None]).sum(-1) for part in (problem.moments, moments))
        left = left - 2 * shift * here + shift.square()
    return float(100 * left.sum() / size)


def solve(problem: RoundingProblem, spec: Any, repeats: int) -> tuple[Any, Any, float]:
    """Method, what it found, and CPU milliseconds of the fastest run."""
    method, best = ROUNDINGS.create(spec), float("inf")
    for _ in range(repeats):
        start = time.process_time()
        found = method.round(problem, torch.Generator().manual_seed(0))
        best = min(best, time.process_time() - start)
    return method, found, 1000 * best


def real_layers(is_quick: bool) -> list[dict[str, Any]]:
    module = networks_module()
    network, (images, _) = module.load_network("resnet20"), module.load_split("train")
    splits = [captured(network, module.normalize(images[first : first + IMAGES], "resnet20")) for first in (0, IMAGES)]
    methods, rows = dict(METHODS), []
    iterations = 200 if is_quick else 10_000
    methods[f"adaround, {iterations:,} iterations"] = {"adaround": {"num_iterations": iterations}}
    for name in LAYERS:
        weight = folded(network, name)
        inputs = splits[0][name]
        known, unseen = (moments_of(split[name], weight, OPERATOR) for split in splits)
        outputs = OPERATOR(inputs, weight)
        for bits in (3, 2):
            problem = problem_of(weight, known, bits, OPERATOR)
            task = replace(problem, samples=lambda inputs=inputs, outputs=outputs: LayerSamples(inputs, inputs, outputs))
            for label, spec in methods.items():
                method, found, milliseconds = solve(task, spec, 1 if is_quick or label.startswith("adaround") else 3)
                errors = [error(problem, found.dequantize(), moments, method.frees_bias) for moments in (known, unseen)]
                rows.append(
                    {"layer": name, "size": problem.weight[0].numel(), "bits": bits, "method": label, "spec": spec, "nmse_x100": errors[0],
                     "held_out_nmse_x100": errors[1], "cpu_ms": milliseconds}
                )  # fmt: skip
    return rows


def depthwise() -> list[dict[str, Any]]:
    """512 channels of 3 x 3 entries: 512 groups of one row."""
    generator = torch.Generator().manual_seed(0)
    operator = LinearOperator((1, 1), (1, 1), (1, 1), groups=512)
    weight, inputs = torch.randn(512, 1, 3, 3, generator=generator), torch.randn(128, 512, 8, 8, generator=generator).relu()
    problem = problem_of(weight, moments_of(inputs, weight, operator), 3, operator)
    assert problem.moments is not None
    rows = []
    for label, spec in METHODS.items():
        method, found, milliseconds = solve(problem, spec, 3)
        left = error(problem, found.dequantize(), problem.moments, method.frees_bias)
        rows.append({"method": label, "nmse_x100": left, "cpu_ms": milliseconds})
    return rows


def of_size(size: int, effort: int) -> dict[str, Any]:
    """512 rows of ``size`` entries in this process: CPU seconds and the memory above what the problem itself takes."""
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(2 * size, size, generator=generator)
    inputs += inputs.roll(1, 1) + inputs[:, :1] + 0.5  # neighbours alike, one thing in common, and a mean
    gram, mean = (inputs.T @ inputs / len(inputs)).double()[None], inputs.mean(0).double()[None]
    weight = torch.randn(512, size, generator=generator)
    problem = problem_of(weight, Moments(gram, gram, mean, mean, len(inputs)), 3, LinearOperator())
    del inputs
    warm_up()
    before = peak_rss_bytes()
    method, found, milliseconds = solve(problem, {"lattice": {"effort": effort}}, 1)
    assert problem.moments is not None
    left = error(problem, found.dequantize(), problem.moments, method.frees_bias)
    return {
        "size": size, "effort": effort, "cpu_seconds": milliseconds / 1000, "nmse_x100": left, "memory_before_bytes": before,
        "memory_peak_bytes": peak_rss_bytes(),
    }  # fmt: skip


def sizes(is_quick: bool) -> list[dict[str, Any]]:
    """`of_size` in a fresh process each."""
    rows = []
    out = HERE / "results" / "work"
    out.mkdir(parents=True, exist_ok=True)
    for size in SIZES[:4] if is_quick else SIZES:
        for effort in (1, 3):
            report = out / f"solver_{size}_{effort}.json"
            command = [sys.executable, str(Path(__file__).resolve()), "--size", str(size), "--effort", str(effort), "--out", str(report)]
            done = run_measured(command, report.with_suffix(".log"), {"PYTHONPATH": f"{HERE}:{ROOT / 'src'}"}, 3600)
            if done.return_code != 0:
                sys.exit(f"size {size} failed:\n{done.log_tail}")
            rows.append(json.loads(report.read_text()))
    return rows


def print_tables(layers: list[dict[str, Any]], channels: list[dict[str, Any]], grown: list[dict[str, Any]]) -> None:
    console = Console()
    for name in LAYERS:
        for bits in (3, 2):
            mine = [row for row in layers if (row["layer"], row["bits"]) == (name, bits)]
            table = Table("method", "NMSE x 100", "of nearest", "held out", "CPU ms", title=f"{name}, d = {mine[0]['size']}, {bits} bits")
            for row in mine:
                share = f"{row['nmse_x100'] / mine[0]['nmse_x100']:.4f}"
                figures = f"{row['nmse_x100']:.3f}", share, f"{row['held_out_nmse_x100']:.3f}", f"{row['cpu_ms']:.0f}"
                table.add_row(row["method"], *figures)
            console.print(table)
    table = Table("method", "NMSE x 100", "CPU ms", title="depthwise, 512 channels of 3 x 3, 3 bits")
    for row in channels:
        table.add_row(row["method"], f"{row['nmse_x100']:.3f}", f"{row['cpu_ms']:.0f}")
    console.print(table)
    table = Table("d", "effort", "NMSE x 100", "CPU s", "MB before", "MB peak", title="lattice, 512 rows, 3 bits")
    for row in grown:
        memory = (f"{row[name] / 1e6:.0f}" for name in ("memory_before_bytes", "memory_peak_bytes"))
        table.add_row(str(row["size"]), str(row["effort"]), f"{row['nmse_x100']:.3f}", f"{row['cpu_seconds']:.2f}", *memory)
    console.print(table)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--size", type=int, help="one row of the last table, in this process; needs --effort and --out")
    parser.add_argument("--effort", type=int)
    parser.add_argument("--out", type=Path, default=HERE / "results" / "solver_layers.json")
    given = parser.parse_args()
    torch.set_num_threads(1)
    if given.size is not None:
        given.out.write_text(json.dumps(of_size(given.size, given.effort)))
        return
    data_folder()
    grown = sizes(given.quick)  # first: a new process starts from its parent's peak memory
    start = time.process_time()
    warm_up()
    compilation = time.process_time() - start
    layers, channels = real_layers(given.quick), depthwise()
    print_tables(layers, channels, grown)
    facts = {"machine": machine_facts(), "commit": commit(ROOT), "versions": versions(Path(sys.executable)), "seed": 0}
    figures = {"is_quick": given.quick, "warm_up_cpu_seconds": compilation, "layers": layers, "depthwise": channels, "sizes": grown}
    given.out.write_text(json.dumps({**facts, **figures}, indent=1) + "\n")


if __name__ == "__main__":
    main()
