"""How fast is the C of an integer program, and is it the same, code for code?

    python benchmarks/integer_speed.py [--networks resnet20,resnet8_mlperf] [--images 1000] [--rounds 200]

Each network is quantized with recipe ``int8``, lowered, and written as C (compiled with ``-O3 -march=native``, with and without the kernels
written by hand), as ONNX with Q/DQ and as ONNX of integers alone. All run one image at a time on one thread, in turn and in shuffled order,
each after an untimed run; CPU milliseconds of the calling thread, and the ratio to ONNX Runtime's int8 in the same round. Then all of
``--images`` validation images go through the interpreter, the C and the integer ONNX, and every differing output code is counted. Writes
``benchmarks/results/integer_speed.json``.
"""

import argparse
import json
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

import halfstep as hs
from halfstep.export.c99.native import OPTIMIZED, CompiledProgram
from halfstep.export.onnx_qdq import export_onnx
from halfstep.export.session import open_session, run_session
from halfstep.integer import quantize_inputs, run
from harness.data import NETWORKS, ROOT, networks_module
from harness.machine import commit, machine_facts, versions

HERE = Path(__file__).resolve().parent
BUILDS = {"C": OPTIMIZED, "C, kernels by hand": (*OPTIMIZED, "-DHALFSTEP_SIMD")}
FLOAT, REFERENCE, INTEGER_ONNX = "ONNX Runtime, float", "ONNX Runtime, int8 (Q/DQ)", "ONNX Runtime, integers alone"
WARM_UP = 20
Run = Callable[[], Any]


def timed(runs: dict[str, Run], rounds: int) -> dict[str, list[float]]:
    """Milliseconds of the calling thread's CPU time, round by round, of each run."""
    spent: dict[str, list[float]] = {name: [] for name in runs}
    order, shuffle = list(runs), random.Random(0)
    for number in range(WARM_UP + rounds):
        shuffle.shuffle(order)
        for name in order:
            runs[name]()
            start = time.thread_time()
            runs[name]()
            if number >= WARM_UP:
                spent[name].append(1e3 * (time.thread_time() - start))
    return spent


def middle_ratio(times: list[float], others: list[float]) -> float:
    """The median of the ratios, round by round."""
    return statistics.median(own / other for own, other in zip(times, others, strict=True))


def measure(network: str, num_images: int, rounds: int, folder: Path) -> dict[str, Any]:
    """One network: medians and ratios, sizes, and how many codes differ."""
    module = networks_module()
    calibration = module.normalize(module.load_split("train")[0][:512], network)
    images = module.normalize(module.load_split("validation")[0][:num_images], network)
    result = hs.quantize(module.load_network(network), calibration, "int8")
    program = hs.lower(result)
    hs.export.onnx(result, folder / "qdq.onnx")
    hs.export.onnx_integer(program, folder / "integer.onnx")
    export_onnx(result.float_model, folder / "float.onnx", result.samples)
    written = hs.export.c(program, folder / "c", images[:4])
    compiled = {name: CompiledProgram(program, folder / "c", flags) for name, flags in BUILDS.items()}
    files = {FLOAT: "float.onnx", REFERENCE: "qdq.onnx", INTEGER_ONNX: "integer.onnx"}
    sessions = {name: open_session(folder / file) for name, file in files.items()}
    codes = quantize_inputs(program, (images,))
    stored = [x.to(program.values[name].grid.storage) for name, x in zip(program.inputs, codes, strict=True)]
    runs: dict[str, Run] = {
        name: partial(session.run, None, {session.get_inputs()[0].name: (stored[0] if name == INTEGER_ONNX else images)[:1].numpy()})
        for name, session in sessions.items()
    }
    runs |= {name: partial(call, [x[:1] for x in codes]) for name, call in compiled.items()}
    spent = timed(runs, rounds)
    start = time.thread_time()
    expected = run(program, codes)
    interpreter = (time.thread_time() - start) / len(images)
    found: dict[str, tuple[Tensor, ...]] = {name: call(codes) for name, call in compiled.items()}
    batches = [run_session(sessions[INTEGER_ONNX], tuple(x[at : at + 100] for x in stored)) for at in range(0, len(images), 100)]
    found[INTEGER_ONNX] = tuple(torch.cat([torch.from_numpy(next(iter(batch.values())).astype("int32")) for batch in batches]) for _ in [0])
    return {
        "ms": {name: statistics.median(times) for name, times in spent.items()},
        "ratio_to_int8": {name: middle_ratio(times, spent[REFERENCE]) for name, times in spent.items()},
        "interpreter_images_per_second": 1 / interpreter,
        "codes": {"images": len(images), "compared": sum(x.numel() for x in expected)}
        | {name: sum(int((a != b).sum()) for a, b in zip(outputs, expected, strict=True)) for name, outputs in found.items()},
        "bytes": {"constants": written.weight_bytes, "arena": written.ram_bytes, "largest live set": written.largest_live_set},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", default="resnet20,resnet8_mlperf", help=f"comma-separated, of: {', '.join(NETWORKS)}")
    parser.add_argument("--images", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=200)
    given = parser.parse_args()
    torch.set_num_threads(1)
    rows = {}
    for network in given.networks.split(","):
        with tempfile.TemporaryDirectory() as folder:
            rows[network] = measure(network, given.images, given.rounds, Path(folder))
        table = Table("", "CPU ms, one image", "of int8", "codes that differ", title=network, title_justify="left")
        for name, milliseconds in rows[network]["ms"].items():
            ratio, differing = rows[network]["ratio_to_int8"][name], rows[network]["codes"].get(name, "")
            table.add_row(name, f"{milliseconds:.3f}", f"{ratio:.2f}", str(differing))
        Console().print(table)
        Console().print(f"interpreter: {rows[network]['interpreter_images_per_second']:.0f} images a second; {rows[network]['bytes']}")
    facts = {"machine": machine_facts(), "versions": versions(Path(sys.executable)), "commit": commit(ROOT)}
    out = HERE / "results" / "integer_speed.json"
    out.write_text(json.dumps({"settings": vars(given), "rows": rows, **facts}, indent=1) + "\n")


if __name__ == "__main__":
    main()
