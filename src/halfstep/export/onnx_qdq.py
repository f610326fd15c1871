"""ONNX with QuantizeLinear / DequantizeLinear around every operator: what ONNX Runtime, OpenVINO and TensorRT read as integers.

PyTorch's own exporter translates the operators (``torch.onnx.export(dynamo=True)``); `rewrite` gives the result its integers; `verify`
executes the file before it gets its name.
"""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator
from pathlib import Path

import onnx_ir as ir
import torch
from torch import Tensor
from torch.export import Dim
from torch.fx import GraphModule

from halfstep.errors import ExportError
from halfstep.export.mark import Marked, mark, translation
from halfstep.export.rewrite import rewrite
from halfstep.export.verify import verify
from halfstep.files import atomic_path
from halfstep.report.record import ExportCheck

OPSET = 21


def export_onnx(graph: GraphModule, path: Path, samples: tuple[Tensor, ...]) -> ExportCheck:
    """Write ``graph`` (quantized, or in float) to ``path``.

    samples: inputs of the network, batch first; the export is executed on them and compared with the simulation. Raises
    `ExportError`, and leaves no file, where PyTorch or ONNX Runtime cannot take the model or the comparison is beyond its bound.
    """
    marked = mark(graph)
    model = rewrite(_translate(marked, graph, samples), marked)
    with atomic_path(Path(path)) as temporary:
        ir.save(model, temporary)
        return verify(graph, temporary, samples)


def _translate(marked: Marked, graph: GraphModule, samples: tuple[Tensor, ...]) -> ir.Model:
    """PyTorch's exporter on the marked graph."""
    size = graph.meta["batch_size"]
    example = tuple(x[: size or 2].clone() for x in samples)
    if size is None and len(example[0]) < 2:
        example = tuple(torch.cat([x, x]) for x in example)  # a batch of one would be recorded as fixed
    shapes = None if size is not None else tuple({0: Dim("batch", min=1)} for _ in example)
    names = [str(node.meta["name"]) for node in graph.graph.nodes if node.op == "placeholder"]
    try:
        with _quiet(), torch.no_grad():
            program = torch.onnx.export(
                marked.graph, example, dynamo=True, opset_version=OPSET, custom_translation_table=translation(),  # type: ignore[arg-type]
                dynamic_shapes=shapes, input_names=names, verbose=False, optimize=True,
            )  # fmt: skip
    except Exception as error:  # the exporter raises many kinds
        raise ExportError(f"PyTorch's ONNX exporter cannot translate the network: {_cause(error)}") from error
    assert program is not None
    return program.model


def _cause(error: BaseException) -> str:
    """The innermost cause, in one line."""
    while error.__cause__ is not None:
        error = error.__cause__
    return (str(error).strip() or type(error).__name__).splitlines()[0]


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without the exporter's progress lines, and the warnings of its own code that a user can do nothing about."""
    loggers = [logging.getLogger(name) for name in ("torch", "onnxscript", "onnx_ir")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
