"""ONNX Runtime, as halfstep uses it: one thread unless said, outputs by name, and a look at what it really executes."""

from __future__ import annotations

import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
from torch import Tensor

from halfstep.errors import DataError, ExportError, is_out_of_memory
from halfstep.export.unshare import unshared
from halfstep.graph.run import cut_to

EXACT_PRODUCTS = "session.x64quantprecision"
"""Of ONNX Runtime's session options. Its kernels for x64 processors without VNNI add two products of uint8 and int8 in 16 bits, which
saturates; with "1" the weights become uint8 there, whose products are added in 32 bits. It changes nothing on other processors.
"""

_MET_TWICE = "replace the existing tensor"
_STALE_TYPE, _WRITES_TYPE = "output_dtype", "QDQPropagationTransformer"
"""Where signed activations meet a reshape, one optimization of ONNX Runtime writes down that they are signed, another makes them unsigned,
and the model is refused for the contradiction (seen in 1.32). Without the first one it runs.
"""


def open_session(
    model: Path | bytes, num_threads: int = 1, optimized_path: Path | None = None, is_shared: bool = False
) -> onnxruntime.InferenceSession:
    """A CPU session with all graph optimizations; raises `ExportError` where ONNX Runtime refuses the model.

    is_shared: other sessions work in turn with it, so its threads sleep between runs instead of spinning.
    """
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = num_threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 4
    options.add_session_config_entry(EXACT_PRODUCTS, "1")
    # A float input of a matrix product with an integer weight stays float; ONNX Runtime's default (4) rounds it to 8 bits in blocks.
    options.add_session_config_entry("session.qdq_matmulnbits_accuracy_level", "1")
    if is_shared:
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    if optimized_path is not None:
        options.optimized_model_filepath = str(optimized_path)
    source = model if isinstance(model, bytes) else str(model)
    try:
        return _session(source, options)
    except ExportError as error:
        if _MET_TWICE not in str(error):
            raise
    return _session(unshared(onnx.load_model_from_string(source) if isinstance(source, bytes) else ir.load(source)), options)


def _session(model: bytes | str, options: onnxruntime.SessionOptions) -> onnxruntime.InferenceSession:
    try:
        try:
            return onnxruntime.InferenceSession(model, options, ["CPUExecutionProvider"])
        except Exception as error:
            if _STALE_TYPE not in str(error):
                raise
            return onnxruntime.InferenceSession(model, options, ["CPUExecutionProvider"], disabled_optimizers=[_WRITES_TYPE])
    except Exception as error:  # ONNX Runtime raises its own, undocumented kinds
        raise ExportError(f"ONNX Runtime cannot load the model: {str(error).splitlines()[0]}") from error


def run_session(session: onnxruntime.InferenceSession, inputs: tuple[Tensor, ...]) -> dict[str, np.ndarray[Any, Any]]:
    """All outputs by name; inputs in the order of the model's. A file of fixed batch size gets its batches cut and filled up to it.

    Raises `DataError` where the inputs do not fit the file, `ExportError` where ONNX Runtime cannot compute it.
    """
    expected = session.get_inputs()
    fits = len(expected) == len(inputs) and all(_fits(value.shape, x) for value, x in zip(expected, inputs, strict=True))
    if not fits:
        wanted = "; ".join(f"'{value.name}' {value.shape}" for value in expected)
        raise DataError(
            f"The ONNX file takes {wanted}, the data is {', '.join(str(list(x.shape)) for x in inputs)}. Check the preprocessing."
        )
    size = expected[0].shape[0] if expected[0].shape else None
    parts = cut_to(inputs, size) if isinstance(size, int) else [(inputs, len(inputs[0]))]
    names = [value.name for value in session.get_outputs()]
    try:
        runs = [session.run(names, {value.name: x.numpy() for value, x in zip(expected, part, strict=True)}) for part, _ in parts]
    except Exception as error:  # ONNX Runtime raises its own, undocumented kinds
        if is_out_of_memory(error):
            raise
        raise ExportError(f"ONNX Runtime cannot run the model: {str(error).splitlines()[0]}") from error
    if len(runs) == 1 and parts[0][1] == len(parts[0][0][0]):
        return dict(zip(names, runs[0], strict=True))
    return {name: np.concatenate(values)[: len(inputs[0])] for name, values in zip(names, zip(*runs, strict=True), strict=True)}


def _fits(shape: list[int | str | None], x: Tensor) -> bool:
    """Whether the axes behind the batch have the sizes the file fixes."""
    return len(shape) == x.ndim and all(not isinstance(want, int) or want == got for want, got in zip(shape[1:], x.shape[1:], strict=True))


def optimized_graph(model: onnx.ModelProto, folder: Path) -> onnx.ModelProto:
    """What ONNX Runtime makes of ``model`` before it chooses memory layouts: node names are kept, weights are left out.

    folder: where the external data of ``model`` lies. Raises `ExportError` where ONNX Runtime refuses the model.
    """
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    options.add_session_config_entry("session.model_external_initializers_file_folder_path", str(folder.absolute()))
    options.add_session_config_entry("session.optimized_model_external_initializers_file_name", "weights.bin")
    with tempfile.TemporaryDirectory() as directory:
        options.optimized_model_filepath = str(Path(directory) / "optimized.onnx")
        _session(model.SerializeToString(), options)
        return onnx.load(options.optimized_model_filepath, load_external_data=False)


def executed_operators(model: Path) -> Counter[str]:
    """How often each operator stands in the graph ONNX Runtime executes, after all its optimizations."""
    with tempfile.TemporaryDirectory() as directory:
        optimized = Path(directory) / "optimized.onnx"
        open_session(model, optimized_path=optimized)
        return Counter(node.op_type for node in onnx.load(optimized).graph.node)
