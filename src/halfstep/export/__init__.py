"""The ways out: files that run elsewhere and compute what was simulated."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

from torch import Tensor
from torch.fx import GraphModule

from halfstep.report.record import ExportCheck


class Exportable(Protocol):
    """What an export needs of a result."""

    model: GraphModule
    samples: tuple[Tensor, ...]

    def note_export(self, path: Path, check: ExportCheck) -> None:
        """Called with the finished file."""


def onnx(result: Exportable, path: str | Path) -> ExportCheck:
    """Write ``result`` as ONNX with integer weights, execute it in ONNX Runtime and compare it with the simulation.

    Returns the comparison. Raises `ExportError`, and leaves no file, where it is beyond its bound.
    """
    from halfstep.export.onnx_qdq import export_onnx  # loads PyTorch's exporter: not before it is needed

    check = export_onnx(result.model, Path(path), result.samples)
    result.note_export(Path(path), check)
    return check


__all__ = ["Exportable", "onnx"]
