"""ONNX Runtime, as halfstep uses it: one thread unless said, outputs by name, and a look at what it really executes."""

from __future__ import annotations

import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from torch import Tensor

from halfstep.errors import ExportError


def open_session(model: Path | bytes, num_threads: int = 1, optimized_path: Path | None = None) -> onnxruntime.InferenceSession:
    """A CPU session with all graph optimizations; raises `ExportError` where ONNX Runtime refuses the model."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = num_threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    if optimized_path is not None:
        options.optimized_model_filepath = str(optimized_path)
    try:
        return onnxruntime.InferenceSession(model if isinstance(model, bytes) else str(model), options, ["CPUExecutionProvider"])
    except Exception as error:  # ONNX Runtime raises its own, undocumented kinds
        raise ExportError(f"ONNX Runtime cannot load the model: {str(error).splitlines()[0]}") from error


def run_session(session: onnxruntime.InferenceSession, inputs: tuple[Tensor, ...]) -> dict[str, np.ndarray[Any, Any]]:
    """All outputs by name; inputs in the order of the model's."""
    names = [value.name for value in session.get_inputs()]
    feed = {name: x.numpy() for name, x in zip(names, inputs, strict=True)}
    outputs = [value.name for value in session.get_outputs()]
    return dict(zip(outputs, session.run(outputs, feed), strict=True))


def executed_operators(model: Path) -> Counter[str]:
    """How often each operator stands in the graph ONNX Runtime executes, after all its optimizations."""
    with tempfile.TemporaryDirectory() as directory:
        optimized = Path(directory) / "optimized.onnx"
        open_session(model, optimized_path=optimized)
        return Counter(node.op_type for node in onnx.load(optimized).graph.node)
