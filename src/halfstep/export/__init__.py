"""The ways out: files that run elsewhere and compute what was simulated."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from torch import Tensor
from torch.fx import GraphModule

from halfstep.digests import note_written
from halfstep.integer.interpreter import as_tuple
from halfstep.integer.program import IntegerProgram
from halfstep.report.record import ExportCheck
from halfstep.targets import GroupForm, target_named

if TYPE_CHECKING:
    from halfstep.export.c99 import CExport
    from halfstep.export.integer_onnx import OnnxIntegerExport


Inputs = Tensor | tuple[Tensor, ...]


class Exportable(Protocol):
    """What an export needs of a result."""

    model: GraphModule
    samples: tuple[Tensor, ...]

    @property
    def target(self) -> str:
        """The runtime it was quantized for."""

    def note_export(self, path: Path, check: ExportCheck) -> None:
        """Called with the finished file."""


def onnx(result: Exportable, path: str | Path, target: str | None = None, *, groups: GroupForm | None = None) -> ExportCheck:
    """Write ``result`` as ONNX with integer weights, execute it in ONNX Runtime and compare it with the simulation.

    target: the runtime whose patterns are written (`halfstep.targets`); default the one of the recipe. groups: how weights with a scale for
    each group of inputs are written: "matmul_nbits", "matmul_nbits_int8" or "qdq" (`halfstep.export.groups`); default the target's. Returns
    the comparison. Raises `ExportError`, and leaves no file, where it is beyond its bound.
    """
    from halfstep.export.onnx_qdq import export_onnx  # loads PyTorch's exporter: not before it is needed

    check = export_onnx(result.model, Path(path), result.samples, target_named(target or result.target), groups)
    note_written(path)
    result.note_export(Path(path), check)
    return check


def c(program: IntegerProgram, directory: str | Path, inputs: Inputs | None = None, force: bool = False) -> CExport:
    """Write ``program`` as C99 with a self test into ``directory``; see `export.c99.export_c`."""
    from halfstep.export.c99 import export_c

    return export_c(program, directory, None if inputs is None else as_tuple(inputs), force)


def onnx_integer(program: IntegerProgram, path: str | Path, inputs: Inputs | None = None) -> OnnxIntegerExport:
    """Write ``program`` as ONNX with integers alone, equal to the interpreter; see `export.integer_onnx.export_onnx_integer`."""
    from halfstep.export.integer_onnx import export_onnx_integer

    written = export_onnx_integer(program, Path(path), None if inputs is None else as_tuple(inputs))
    note_written(path)
    return written


__all__ = ["Exportable", "GroupForm", "c", "onnx", "onnx_integer"]
