"""An exported directory, compiled for this machine and run from Python: what the interpreter is compared with."""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from halfstep.errors import ExportError
from halfstep.export.c99.text import c_type, code_type, identifier
from halfstep.grid import Grid
from halfstep.integer import IntegerProgram

_STRICT = ("-std=c99", "-Wall", "-Wextra", "-Wconversion", "-Werror", "-pedantic")
OPTIMIZED = ("-O3", "-march=native")


class CompiledProgram:
    """``directory``, as `export_c` wrote it for ``program``, built as a shared library.

    flags: further flags of the compiler. Raises `ExportError` where there is no C compiler (the variable CC, else cc) or it complains.
    """

    def __init__(self, program: IntegerProgram, directory: str | Path, flags: Sequence[str] = OPTIMIZED) -> None:
        compiler = shutil.which(os.environ.get("CC", "cc"))
        if compiler is None:
            raise ExportError("There is no C compiler here: install one, or name it in the environment variable CC.")
        self._program = program
        with tempfile.TemporaryDirectory() as folder:
            library = Path(folder) / "model.so"
            command = [compiler, *_STRICT, *flags, "-shared", "-fPIC", "-o", str(library), str(Path(directory) / "model.c")]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode:
                raise ExportError(f"The C compiler refuses '{directory}': {done.stderr[:2000]}")
            self._library = ctypes.CDLL(str(library))
        name = identifier(program.name)
        self._run = getattr(self._library, f"{name}_run")
        arena_bytes = getattr(self._library, f"{name}_arena_bytes")
        arena_bytes.restype = ctypes.c_size_t
        self._arena = np.zeros(max(1, arena_bytes()), np.uint8)

    def __call__(self, codes: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """The codes of the outputs, int32 [N, ...], from codes of the inputs [N, ...], one sample at a time."""
        values = self._program.values
        given = [
            np.ascontiguousarray(x.numpy().astype(_dtype(values[name].grid))) for name, x in zip(self._program.inputs, codes, strict=True)
        ]
        count = len(given[0])
        made = [np.zeros((count, *values[name].shape), _dtype(values[name].grid)) for name in self._program.outputs]
        buffers = [*given, *made]
        addresses = [array.ctypes.data for array in buffers]
        steps = [array.nbytes // count for array in buffers]
        arena = ctypes.c_void_p(self._arena.ctypes.data)
        for index in range(count):
            pointers = [ctypes.c_void_p(address + index * step) for address, step in zip(addresses, steps, strict=True)]
            if self._run(arena, *pointers) != 0:
                raise ExportError(f"Sample {index} holds a code that is not on the grid of its input.")
        return tuple(torch.from_numpy(array.astype(np.int32)) for array in made)


def _dtype(grid: Grid) -> np.dtype[Any]:
    return np.dtype(c_type(code_type(grid)).removesuffix("_t"))
