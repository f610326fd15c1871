"""Latency of several ONNX files side by side: all loaded in one process, batch 1, one thread, run in turn A B C A B C ...

    python -m harness.latency --rounds 300 --out latency.json float=a.onnx halfstep=b.onnx
    python -m harness.latency --runtime openvino --rounds 300 --out latency.json float=a.onnx halfstep=b.onnx

Alternating puts every model under the same load of the machine, and the order is shuffled (seeded) in each round. A turn is one
untimed run, which brings the model back into the caches that the others emptied, and one timed run. ``cpu`` is the calling thread's
CPU time (one intra-op thread: all the work is there; of OpenVINO, which works in a thread of its own, the process's), which another
process's load disturbs less than ``wall``. OpenVINO computes floats in float32. Inputs are random; axes that a file leaves free are 1 for
the batch and 128 elsewhere.
"""

import argparse
import json
import random
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    import onnxruntime as ort

WARM_UP_ROUNDS = 20
REFERENCES = ("float", "halfstep", "halfstep_openvino")
FREE_SIZE = 128


def open_session(path: Path, is_exact: bool = False) -> "ort.InferenceSession":
    """One thread, ONNX Runtime's defaults. is_exact: halfstep's own session, in which no sum of products saturates on processors without
    VNNI, for accuracies that any other processor shows.
    """
    if is_exact:
        from halfstep.export import session

        return session.open_session(path)
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    return ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def random_inputs(session: "ort.InferenceSession", seed: int) -> "tuple[np.ndarray[Any, Any], ...]":
    """One sample: noise for floats, integers below 1,000 for integers, ones for masks."""
    import numpy as np

    random, made = np.random.default_rng(seed), []
    for value in session.get_inputs():
        shape = [size if isinstance(size, int) else 1 if place == 0 else FREE_SIZE for place, size in enumerate(value.shape)]
        if "float" in value.type:
            made.append(random.standard_normal(shape, dtype=np.float32))
        else:
            made.append(np.ones(shape, np.int64) if "mask" in value.name else random.integers(0, 1000, shape))
    return tuple(made)


def named_inputs(session: "ort.InferenceSession", inputs: "tuple[np.ndarray[Any, Any], ...]") -> "dict[str, np.ndarray[Any, Any]]":
    return dict(zip([value.name for value in session.get_inputs()], inputs, strict=True))


def _in_onnxruntime(path: Path, feed: "dict[str, np.ndarray[Any, Any]]") -> Callable[[], object]:
    return partial(open_session(path).run, None, feed)


def _in_openvino(path: Path, feed: "dict[str, np.ndarray[Any, Any]]") -> Callable[[], object]:
    import openvino

    options = {"INFERENCE_NUM_THREADS": 1, "INFERENCE_PRECISION_HINT": "f32", "PERFORMANCE_HINT": "LATENCY"}
    return partial(openvino.Core().compile_model(path, "CPU", options).create_infer_request().infer, feed)


RUNTIMES: dict[str, tuple[Callable[..., Callable[[], object]], Callable[[], float]]] = {
    "onnxruntime": (_in_onnxruntime, time.thread_time),
    "openvino": (_in_openvino, time.process_time),
}
"""By name: what loads a file and returns a function that runs it, and the clock of its CPU time."""


def measure(
    models: dict[str, Path],
    rounds: int,
    seed: int,
    inputs: "tuple[np.ndarray[Any, Any], ...] | None" = None,
    runtime: str = "onnxruntime",
) -> dict[str, dict[str, list[float]]]:
    """Per model the seconds of every round: ``{"cpu": [...], "wall": [...]}``. inputs: of one sample; None: random ones."""
    load, clock = RUNTIMES[runtime]
    sessions = {name: open_session(path) for name, path in models.items()}
    feeds = {name: named_inputs(session, inputs or random_inputs(session, seed)) for name, session in sessions.items()}
    del sessions
    runs = {name: load(path, feeds[name]) for name, path in models.items()}
    times: dict[str, dict[str, list[float]]] = {name: {"cpu": [], "wall": []} for name in models}
    order, shuffle = list(models), random.Random(seed)
    for number in range(WARM_UP_ROUNDS + rounds):
        shuffle.shuffle(order)
        for name in order:
            runs[name]()
            cpu, wall = clock(), time.perf_counter()
            runs[name]()
            cpu, wall = clock() - cpu, time.perf_counter() - wall
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
    parser.add_argument("--runtime", choices=RUNTIMES, default="onnxruntime")
    parser.add_argument("--out", type=Path, required=True)
    given = parser.parse_args()
    given.out.write_text(json.dumps(figures(measure(dict(given.models), given.rounds, given.seed, runtime=given.runtime))))


if __name__ == "__main__":
    main()
