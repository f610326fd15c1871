"""Many programs in one executable: exported, compiled as one file, run on codes of their own and compared with the interpreter."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from torch import Tensor

import halfstep as hs
from halfstep.export.c99 import CExport, export_c
from halfstep.export.c99.text import c_type, code_type, identifier
from halfstep.integer import IntegerProgram, Value, run

STRICT = ["-std=c99", "-Wall", "-Wextra", "-Wconversion", "-Werror", "-pedantic"]
SANITIZED = ["-O1", "-g1", "-fsanitize=undefined,address", "-fno-sanitize-recover=all"]
Case = tuple[IntegerProgram, tuple[Tensor, ...]]
CheckPrograms = Callable[[Sequence[Case], Sequence[str]], list[CExport]]

# One program: its samples and the interpreter's codes come from a file, memory is as large as it has to be and full of rubbish.
_TEST = """static unsigned long test_@(FILE *file)
{
    unsigned long wrong = 0;
    unsigned char *arena = malloc(@_arena_bytes());
$buffers
    for (int i = 0; i < $count; ++i) {
        if (@_arena_bytes() > 0)
            memset(arena, 0xa5, @_arena_bytes());
$read
        if (@_run(arena, $arguments) != 0)
            ++wrong;
$compare
    }
    free(arena);
    if (wrong)
        printf("@: %lu wrong codes\\n", wrong);
    return wrong;
}
"""


@pytest.fixture(scope="session")
def compiler() -> str:
    """The C compiler. Skips where there is none."""
    found = shutil.which("gcc") or shutil.which("cc")
    if found is None:
        pytest.skip("no C compiler: install gcc")
    return found


@pytest.fixture
def check_programs(compiler: str, tmp_path: Path) -> CheckPrograms:
    """A function (programs with codes, flags of the compiler) that fails where C and interpreter differ in a code; returns the exports.

    Called again with the same programs it compiles what it has written before.
    """
    written: dict[int, list[CExport]] = {}

    def check(cases: Sequence[Case], flags: Sequence[str]) -> list[CExport]:
        folder = tmp_path / f"batch_{id(cases)}"
        if id(cases) not in written:
            written[id(cases)] = write_batch(cases, folder)
        build = subprocess.run(
            [compiler, *STRICT, *flags, "-o", str(folder / "test"), str(folder / "main.c")], capture_output=True, text=True, check=False
        )
        assert build.returncode == 0, build.stderr[:4000]
        done = subprocess.run([folder / "test", folder / "codes"], capture_output=True, text=True, check=False)
        assert done.returncode == 0, (done.stdout + done.stderr)[:4000]
        assert done.stdout.split() == [str(len(cases)), "programs"]
        return written[id(cases)]

    return check


@pytest.fixture(scope="session")
def lowered(cifar: ModuleType) -> Callable[[str, str], IntegerProgram]:
    """A function (network, recipe) that quantizes a trained network on 64 images and lowers it."""

    def lower(network: str, recipe: str) -> IntegerProgram:
        images = cifar.normalize(cifar.load_split("train")[0][:64], network)
        return hs.lower(hs.quantize(cifar.load_network(network), images, recipe))

    return lower


def write_batch(cases: Sequence[Case], folder: Path) -> list[CExport]:
    """Every program in a folder of its own, ``main.c`` that includes and runs all, ``codes`` that it reads."""
    exports, includes, tests, calls, codes = [], [], [], [], []
    for index, (program, vectors) in enumerate(cases):
        exports.append(export_c(program, folder / str(index), vectors))
        outputs = run(program, vectors)
        samples = [_to_bytes(program, vectors, outputs, sample) for sample in range(len(vectors[0]))]
        codes.append(b"".join(samples))
        name = identifier(program.name)
        includes.append(f'#include "{index}/model.c"')
        tests.append(_test(program, name, len(samples)))
        calls.append(f"    wrong += test_{name}(file);")
    main = ["int main(int count, char **names)", "{", "    unsigned long wrong = 0;"]
    main += ['    FILE *file = fopen(names[count - 1], "rb");', "    if (file == NULL)", "        return 2;", *calls]
    main += ["    fclose(file);", "    if (wrong == 0)", f'        puts("{len(cases)} programs");', "    return wrong != 0;", "}", ""]
    head = ["#include <stdio.h>", "#include <stdlib.h>", *includes]
    (folder / "main.c").write_text("\n".join([*head, *tests, *main]))
    (folder / "codes").write_bytes(b"".join(codes))
    return exports


def _to_bytes(program: IntegerProgram, inputs: Sequence[Tensor], outputs: Sequence[Tensor], sample: int) -> bytes:
    names = (*program.inputs, *program.outputs)
    return b"".join(
        np.ascontiguousarray(codes[sample].numpy()).astype(_dtype(program.values[name])).tobytes()
        for name, codes in zip(names, (*inputs, *outputs), strict=True)
    )


def _dtype(value: Value) -> str:
    return c_type(code_type(value.grid)).removesuffix("_t")


def _test(program: IntegerProgram, name: str, num_samples: int) -> str:
    buffers, read, compare, arguments = [], [], [], []
    for index, value in enumerate(program.values[name] for name in program.inputs):
        buffers.append(f"    static {_dtype(value)}_t in_{index}[{value.size}];")
        read.append(f"        if (fread(in_{index}, sizeof in_{index}, 1, file) != 1)\n            abort();")
        arguments.append(f"in_{index}")
    for index, value in enumerate(program.values[name] for name in program.outputs):
        buffers.append(f"    static {_dtype(value)}_t out_{index}[{value.size}], expected_{index}[{value.size}];")
        compare.append(f"        if (fread(expected_{index}, sizeof expected_{index}, 1, file) != 1)\n            abort();")
        compare.append(f"        for (int j = 0; j < {value.size}; ++j)\n            wrong += out_{index}[j] != expected_{index}[j];")
        arguments.append(f"out_{index}")
    text = _TEST.replace("@", name).replace("$count", str(num_samples)).replace("$arguments", ", ".join(arguments))
    return text.replace("$buffers", "\n".join(buffers)).replace("$read", "\n".join(read)).replace("$compare", "\n".join(compare))
