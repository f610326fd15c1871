"""C99 from an integer program: no float, no heap, no dependency, the same codes as the interpreter bit for bit."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from halfstep.errors import DataError
from halfstep.export.c99.write import Layer, write
from halfstep.files import atomic_directory
from halfstep.integer import IntegerProgram, check, quantize_inputs

__all__ = ["CExport", "Layer", "export_c"]

_NUM_DRAWN = 4  # samples of the self test where none are given


@dataclass(frozen=True)
class CExport:
    """files: what was written. All sizes in bytes, the code itself not included.

    weight_bytes: constant arrays (weights, biases, multipliers, tables). ram_bytes: the arena the caller provides. largest_live_set: of the
    tensors and scratch memory alive at one step, the least any plan needs. scratch_bytes: the most a step needs beside its tensors, inside
    the arena. layers: one entry for each step, in order.
    """

    files: tuple[Path, ...]
    weight_bytes: int
    ram_bytes: int
    largest_live_set: int
    scratch_bytes: int
    layers: tuple[Layer, ...]


def export_c(program: IntegerProgram, directory: str | Path, inputs: tuple[Tensor, ...] | None = None, force: bool = False) -> CExport:
    """Write ``program`` as C99 into ``directory``, with a self test.

    inputs: samples [N, ...] for the self test: real numbers, or codes where they are integers; without them codes are drawn. force: replace
    a directory that is not empty. Raises `ExportError` where the program has no form in C (the requantization ``float``), `DataError` where
    inputs do not fit, `LoweringError` where the program is not sound.
    """
    check(program)
    written = write(program, _vectors(program, inputs))
    with atomic_directory(directory, force) as folder:
        for name, text in written.files.items():
            (folder / name).write_text(text, encoding="ascii")
    plan = written.plan
    files = tuple(Path(directory) / name for name in written.files)
    most = max(plan.scratch_bytes, default=0)
    return CExport(files, written.flash_bytes, plan.arena_bytes, plan.largest_live_set, most, written.layers)


def _vectors(program: IntegerProgram, inputs: tuple[Tensor, ...] | None) -> tuple[Tensor, ...]:
    """Codes for the self test."""
    values = [program.values[name] for name in program.inputs]
    if inputs is None:
        generator = torch.Generator().manual_seed(0)
        return tuple(
            torch.randint(value.grid.minimum, value.grid.maximum + 1, (_NUM_DRAWN, *value.shape), generator=generator).to(torch.int32)
            for value in values
        )
    if any(x.is_floating_point() for x in inputs):
        return quantize_inputs(program, inputs)
    for value, codes in zip(values, inputs, strict=False):
        if codes.numel() and not value.grid.minimum <= int(codes.min()) <= int(codes.max()) <= value.grid.maximum:
            raise DataError(f"Codes for input '{value.name}' must lie within {value.grid.minimum} .. {value.grid.maximum}.")
    return tuple(codes.to(torch.int32) for codes in inputs)
