"""How fast ONNX files run, and what they take: latency, throughput, size and memory, two files in turn.

Both files are loaded in one process and run A B A B ...: whatever else the machine does hurts both alike, and the ratio of two runs that
follow each other is steadier than either time. Memory is the peak of a fresh process for each file.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, final

import numpy as np

from halfstep.errors import DataError, ExportError
from halfstep.runtimes.execution import has_openvino
from halfstep.workflow.latency import alternate

Feeds = dict[str, np.ndarray[Any, Any]]
_SCRIPT = Path(__file__).with_name("fresh_process.py")
_TYPES = {"float": np.float32, "double": np.float64, "float16": np.float16, "int64": np.int64, "int32": np.int32, "bool": np.bool_}


@final
@dataclass(frozen=True)
class Spread:
    """The median of some figures, and the 10th and 90th percentile."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, figures: list[float]) -> Spread:
        """Of at least one figure."""
        low, high = np.percentile(figures, [10, 90])
        return cls(statistics.median(figures), float(low), float(high))


@final
@dataclass(frozen=True)
class Speed:
    """One row. milliseconds: of one run, by file. per_second: samples, by file. ratio: of the medians, how many times faster ``model`` is;
    its low and high are those of the rounds' ratios. None where there is one file alone.
    """

    runtime: str
    batch_size: int
    num_threads: int
    milliseconds: dict[str, Spread]
    per_second: dict[str, float]
    ratio: Spread | None


@final
@dataclass(frozen=True)
class Benchmark:
    """files: by name ("model", "against") the path. bytes: of each file. memory: by runtime and file, {"before", "peak"} in bytes."""

    files: dict[str, str]
    bytes: dict[str, int]
    memory: dict[str, dict[str, dict[str, int]]]
    speeds: tuple[Speed, ...]
    notes: tuple[str, ...]


def benchmark(
    model: Path,
    against: Path | None = None,
    *,
    batch_sizes: tuple[int, ...] = (1, 8),
    num_threads: tuple[int, ...] | None = None,
    seconds: float = 5.0,
    shape: tuple[int, ...] | None = None,
) -> Benchmark:
    """Time ``model`` and, in turn with it, the file ``against``, in ONNX Runtime and, where it is installed, in OpenVINO.

    num_threads: default one and all. seconds: at most so long for each row. shape: sizes behind the batch, for inputs whose sizes the file
    leaves free. Inputs are random numbers. Raises `DataError` where sizes are missing, `ExportError` where ONNX Runtime refuses a file.
    """
    files = {"model": model} if against is None else {"against": against, "model": model}
    notes: list[str] = []
    runtimes = ["onnxruntime", *(["openvino"] if has_openvino() else [])]
    sizes = [size for size in batch_sizes if _takes(files, size, notes)]
    speeds = [
        _speed(runtime, files, size, threads, seconds, shape)
        for runtime in runtimes
        for threads in num_threads or _one_and_all()
        for size in sizes
    ]
    smallest = min(sizes, default=1)
    memory = {runtime: {name: _memory(runtime, path, feeds(path, smallest, shape)) for name, path in files.items()} for runtime in runtimes}
    return Benchmark(
        {name: str(path) for name, path in files.items()},
        {name: _num_bytes(path) for name, path in files.items()},
        memory,
        tuple(speeds),
        tuple(notes),
    )


def feeds(path: Path, batch_size: int, shape: tuple[int, ...] | None = None) -> Feeds:
    """Random inputs for the file, ``batch_size`` samples; `DataError` where it leaves a size free that ``shape`` does not give."""
    from halfstep.export.session import open_session

    random = np.random.default_rng(0)
    made: Feeds = {}
    for value in open_session(path).get_inputs():
        behind = list(value.shape[1:]) if shape is None or len(shape) != len(value.shape) - 1 else list(shape)
        free = [size for size in behind if not isinstance(size, int)]
        if free:
            raise DataError(
                f"The input '{value.name}' {value.shape} of '{path}' leaves '{free[0]}' free: give --shape, for instance 3,224,224."
            )
        kind = value.type.removeprefix("tensor(").removesuffix(")")
        if kind not in _TYPES:
            raise DataError(f"The input '{value.name}' of '{path}' has the type {kind}, for which there are no random numbers.")
        size = (batch_size, *behind) if value.shape else ()
        is_real = kind in ("float", "double", "float16")
        made[value.name] = (random.standard_normal(size) if is_real else np.ones(size)).astype(_TYPES[kind])
    return made


def _takes(files: Mapping[str, Path], size: int, notes: list[str]) -> bool:
    """Whether every file runs on batches of ``size``; a note where one does not."""
    from halfstep.export.session import open_session

    for path in files.values():
        fixed = [value.shape[0] for value in open_session(path).get_inputs() if value.shape and isinstance(value.shape[0], int)]
        if any(found != size for found in fixed):
            notes.append(f"'{path}' takes batches of {fixed[0]} only: batch {size} is left out.")
            return False
    return True


def _one_and_all() -> tuple[int, ...]:
    count = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return (1, count) if count > 1 else (1,)


def _speed(runtime: str, files: Mapping[str, Path], size: int, threads: int, seconds: float, shape: tuple[int, ...] | None) -> Speed:
    runs = {name: _RUNTIMES[runtime](path, threads, feeds(path, size, shape)) for name, path in files.items()}
    spent = alternate(runs, seconds=seconds)
    milliseconds = {name: Spread.of(times) for name, times in spent.items()}
    per_second = {name: size / times.median * 1e3 for name, times in milliseconds.items()}
    return Speed(runtime, size, threads, milliseconds, per_second, _ratio(spent, milliseconds) if "against" in spent else None)


def _ratio(spent: dict[str, list[float]], milliseconds: dict[str, Spread]) -> Spread:
    rounds = Spread.of([other / own for other, own in zip(spent["against"], spent["model"], strict=True)])
    return Spread(milliseconds["against"].median / milliseconds["model"].median, rounds.low, rounds.high)


def _in_onnxruntime(path: Path, num_threads: int, inputs: Feeds) -> Callable[[], object]:
    from halfstep.export.session import open_session

    session = open_session(path, num_threads, is_shared=True)
    return partial(session.run, None, inputs)


def _in_openvino(path: Path, num_threads: int, inputs: Feeds) -> Callable[[], object]:
    """In float32 where the file is float: OpenVINO's own default would be bfloat16 on processors that have it."""
    import openvino

    options = {"INFERENCE_NUM_THREADS": num_threads, "INFERENCE_PRECISION_HINT": "f32", "PERFORMANCE_HINT": "LATENCY"}
    try:
        request = openvino.Core().compile_model(path, "CPU", options).create_infer_request()
    except RuntimeError as error:
        raise ExportError(f"OpenVINO cannot load '{path}': {' '.join(str(error).split())[:300]}") from error
    return partial(request.infer, inputs)


_RUNTIMES: dict[str, Callable[[Path, int, Feeds], Callable[[], object]]] = {"onnxruntime": _in_onnxruntime, "openvino": _in_openvino}


def _memory(runtime: str, path: Path, inputs: Feeds) -> dict[str, int]:
    with tempfile.TemporaryDirectory() as directory:
        stored = Path(directory) / "inputs.npz"
        np.savez(stored, allow_pickle=False, **inputs)
        done = subprocess.run([sys.executable, _SCRIPT, runtime, path, stored], capture_output=True, text=True, check=False)
    if done.returncode:
        last = (done.stderr.strip() or f"status {done.returncode}").splitlines()[-1]
        raise ExportError(f"'{path}' cannot be run in a process of its own: {last}")
    found: dict[str, int] = json.loads(done.stdout)
    return found


def _num_bytes(path: Path) -> int:
    """The file and what it keeps in other files."""
    from halfstep.onnx_import.model import read_proto
    from halfstep.runtimes.execution import data_files

    return path.stat().st_size + sum((path.parent / name).stat().st_size for name in data_files(read_proto(path)))
