"""Latency of several ONNX files side by side: all loaded in one process, batch 1, one thread, run in turn A B C A B C ...

    python -m harness.latency --rounds 300 --out latency.json float=a.onnx halfstep=b.onnx

Alternating puts every model under the same load of the machine, and the order is shuffled (seeded) in each round. A turn is one
untimed run, which brings the model back into the caches that the others emptied, and one timed run. ``cpu`` is the calling thread's
CPU time (one intra-op thread: all the work is there), which another process's load disturbs less than ``wall``.
"""

import argparse
import json
import random
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    import onnxruntime as ort

WARM_UP_ROUNDS = 20
REFERENCES = ("float", "halfstep")


def open_session(path: Path) -> "ort.InferenceSession":
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    return ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def measure(
    models: dict[str, Path], rounds: int, seed: int, inputs: "tuple[np.ndarray[Any, Any], ...] | None" = None
) -> dict[str, dict[str, list[float]]]:
    """Per model the seconds of every round: ``{"cpu": [...], "wall": [...]}``. inputs: of one sample; None: a random small image."""
    import numpy as np

    rng = np.random.default_rng(seed)
    image = rng.standard_normal((1, 3, 32, 32), dtype=np.float32)
    sessions = {name: open_session(path) for name, path in models.items()}
    names = {name: [value.name for value in session.get_inputs()] for name, session in sessions.items()}
    feeds: dict[str, dict[str, Any]] = {name: dict(zip(names[name], inputs or (image,), strict=True)) for name in models}
    times: dict[str, dict[str, list[float]]] = {name: {"cpu": [], "wall": []} for name in models}
    order, shuffle = list(models), random.Random(seed)
    for number in range(WARM_UP_ROUNDS + rounds):
        shuffle.shuffle(order)
        for name in order:
            sessions[name].run(None, feeds[name])
            cpu, wall = time.thread_time(), time.perf_counter()
            sessions[name].run(None, feeds[name])
            cpu, wall = time.thread_time() - cpu, time.perf_counter() - wall
            if number >= WARM_UP_ROUNDS:
                times[name]["cpu"].append(cpu)
                times[name]["wall"].append(wall)
    return times


def figures(times: dict[str, dict[str, list[float]]]) -> dict[str, dict[str, float]]:
    """Per model: median, p10 and p90 in milliseconds of both clocks, and the same of the round-by-round CPU ratios to the references.

    ``float_ratio_median`` 2.0: in the median round this model needed half the CPU time that ``float`` needed in that round.
    """
    import numpy as np

    found: dict[str, dict[str, float]] = {}
    for name, clocks in times.items():
        series = {f"{clock}_ms": 1e3 * np.array(seconds) for clock, seconds in clocks.items()}
        own = np.array(clocks["cpu"])
        series |= {f"{other}_ratio": np.array(times[other]["cpu"]) / own for other in REFERENCES if other in times}
        found[name] = {}
        for label, values in series.items():
            low, middle, high = np.percentile(values, [10, 50, 90])
            found[name] |= {f"{label}_median": float(middle), f"{label}_p10": float(low), f"{label}_p90": float(high)}
    return found


def named_path(text: str) -> tuple[str, Path]:
    name, _, path = text.partition("=")
    return name, Path(path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("models", nargs="+", type=named_path, help="name=file.onnx")
    parser.add_argument("--rounds", type=int, default=300)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, required=True)
    given = parser.parse_args()
    given.out.write_text(json.dumps(figures(measure(dict(given.models), given.rounds, given.seed))))


if __name__ == "__main__":
    main()
