"""How long one sample takes in ONNX Runtime: float against quantized, in turn, so that a busy machine hurts both alike."""

from __future__ import annotations

import statistics
import tempfile
import time
from pathlib import Path

from torch import Tensor
from torch.fx import GraphModule

_WARM_UP, _ROUNDS, _SECONDS = 5, 200, 5.0


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
        sessions = [open_session(float_path), open_session(onnx_path)]
    spent: list[list[float]] = [[], []]
    begin = time.perf_counter()
    for turn in range(_WARM_UP + _ROUNDS):
        for session, times in zip(sessions, spent, strict=True):
            start = time.perf_counter()
            run_session(session, one)
            times.append(time.perf_counter() - start)
        if turn > _WARM_UP and time.perf_counter() - begin > _SECONDS:
            break
    medians = [statistics.median(times[_WARM_UP:]) * 1e3 for times in spent]
    return {"float": medians[0], "onnx": medians[1], "ratio": medians[0] / medians[1]}
