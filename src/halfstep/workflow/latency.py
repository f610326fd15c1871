"""How long one sample takes in ONNX Runtime: float against quantized, in turn, so that a busy machine hurts both alike."""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

from torch import Tensor
from torch.fx import GraphModule

_WARM_UP, _ROUNDS, _SECONDS = 5, 200, 5.0
_FEWEST = 5  # rounds that are counted, however slow they are


def measure_latency(float_graph: GraphModule, onnx_path: Path, samples: tuple[Tensor, ...]) -> dict[str, float]:
    """{"float", "onnx": median milliseconds of one sample on one thread, "ratio": how many times faster the exported file is}.

    The float network is exported too, to a temporary file; both run in turn (A B A B ...), for at most some seconds.
    """
    from halfstep.export.onnx_qdq import export_onnx  # loads PyTorch's exporter: not before it is needed
    from halfstep.export.session import open_session, run_session

    one = tuple(x[: float_graph.meta["batch_size"] or 1] for x in samples)
    with tempfile.TemporaryDirectory() as directory:
        float_path = Path(directory) / "float.onnx"
        export_onnx(float_graph, float_path, samples)
        sessions = {"float": open_session(float_path), "onnx": open_session(onnx_path)}
    spent = alternate({name: partial(run_session, session, one) for name, session in sessions.items()})
    medians = {name: statistics.median(times) for name, times in spent.items()}
    return {**medians, "ratio": medians["float"] / medians["onnx"]}


def alternate(runs: Mapping[str, Callable[[], object]], num_rounds: int = _ROUNDS, seconds: float = _SECONDS) -> dict[str, list[float]]:
    """Wall milliseconds of every call, by name: A B A B ..., after some that are not counted.

    ``num_rounds`` of each, fewer where they would take more than ``seconds``, but at least five.
    """
    spent: dict[str, list[float]] = {name: [] for name in runs}
    begin = time.perf_counter()
    for turn in range(_WARM_UP + num_rounds):
        for name, call in runs.items():
            start = time.perf_counter()
            call()
            spent[name].append((time.perf_counter() - start) * 1e3)
        if turn >= _WARM_UP + _FEWEST - 1 and time.perf_counter() - begin > seconds:
            break
    return {name: times[_WARM_UP:] for name, times in spent.items()}
