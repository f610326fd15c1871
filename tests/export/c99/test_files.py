"""The exported directory: it builds, tests itself, says what it is, and refuses what it cannot do."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest
import torch
from random_programs import random_codes, random_program

from halfstep.errors import DataError, ExportError, HalfstepError
from halfstep.export.c99 import export_c
from halfstep.export.c99.native import CompiledProgram
from halfstep.export.c99.text import identifier
from halfstep.grid import Grid
from halfstep.integer import IntegerProgram, Value, check, rescale, run
from halfstep.integer.operators import Linear, Lookup, Requantize

STRICT = ["-std=c99", "-Wall", "-Wextra", "-Wconversion", "-Werror", "-pedantic"]


def _classifier(name: str = "net/1", bits: int = 8) -> IntegerProgram:
    generator = torch.Generator().manual_seed(0)
    weight = torch.randint(-(1 << (bits - 1)), 1 << (bits - 1), (5, 40), generator=generator)
    values = {"x": Value("x", (40,), Grid(7, True, False), 0.25, 3), "y": Value("y", (5,), Grid(8, True), 0.5)}
    scale = rescale(torch.tensor(0.01), "fixed_point_32")
    layer = Linear("fc", ("x",), "y", rescale=scale, low=-128, high=127, weight=weight, bias=torch.arange(5))
    return check(IntegerProgram(name, values, (layer,), ("x",), ("y",)))


def _make(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["make", "-C", str(folder), *arguments], capture_output=True, text=True, check=False)


@pytest.mark.parametrize("arguments", [(), ("SIMD=1",), ("OPTIMIZE=-O1 -fsanitize=undefined,address",)])
def test_make_test(arguments: tuple[str, ...], tmp_path: Path, compiler: str) -> None:
    export_c(_classifier(), tmp_path / "c")
    done = _make(tmp_path / "c", "test", f"CC={compiler}", *arguments)
    assert done.returncode == 0, done.stderr
    assert "net_1: 4 samples, 0 wrong codes" in done.stdout


def test_make_test_fails_on_one_wrong_code(tmp_path: Path, compiler: str) -> None:
    program = _classifier()
    codes = random_codes(program, 3, 0)
    export_c(program, tmp_path / "c", codes)
    path = tmp_path / "c" / "selftest.c"
    right = f" {int(run(program, codes)[0][-1, -1])},\n}};\n\nstatic int8_t output_0"
    assert right in path.read_text()
    path.write_text(path.read_text().replace(right, f" {(int(run(program, codes)[0][-1, -1]) + 1) % 100},\n}};\n\nstatic int8_t output_0"))
    done = _make(tmp_path / "c", "test", f"CC={compiler}")
    assert done.returncode != 0
    assert "1 wrong codes" in done.stdout


def test_cmake(tmp_path: Path, compiler: str) -> None:
    if shutil.which("cmake") is None:
        pytest.skip("no cmake: install it")
    export_c(_classifier(), tmp_path / "c")
    build = tmp_path / "build"
    for command in (["cmake", "-S", str(tmp_path / "c"), "-B", str(build)], ["cmake", "--build", str(build)], [str(build / "selftest")]):
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr


def test_no_float_no_heap_nothing_but_memory_functions(tmp_path: Path, compiler: str) -> None:
    """What the object file asks of others, and what the text says."""
    export_c(random_program(3), tmp_path / "c")
    text = (tmp_path / "c" / "model.c").read_text() + (tmp_path / "c" / "kernels.h").read_text()
    code = re.sub(r"/\*.*?\*/", "", text, flags=re.DOTALL)
    assert not re.search(r"\b(float|double|malloc|calloc|free|static [a-z0-9_]+ [a-z_]+;)\b", code)
    assert set(re.findall(r"#include <(.*?)>", code)) <= {"stddef.h", "stdint.h", "string.h", "immintrin.h"}
    built = subprocess.run([compiler, *STRICT, "-O2", "-c", "-o", "m.o", "model.c"], cwd=tmp_path / "c", check=False)
    assert built.returncode == 0
    asked = subprocess.run(["nm", "-u", "m.o"], cwd=tmp_path / "c", capture_output=True, text=True, check=True).stdout.split()
    assert {name for name in asked if name != "U"} <= {"memcpy", "memset", "_GLOBAL_OFFSET_TABLE_", "__stack_chk_fail"}


@pytest.mark.parametrize(("bits", "packed"), [(2, 10), (3, 15), (4, 20), (8, 40)])
def test_sizes(bits: int, packed: int, tmp_path: Path) -> None:
    """Five rows of 40 weights, five biases; the header says the same."""
    done = export_c(_classifier(bits=bits), tmp_path / "c")
    assert done.weight_bytes == 5 * packed + 5 * 4
    assert done.scratch_bytes == done.ram_bytes == done.largest_live_set == 4 * 40 + (5 * 40 if bits < 8 else 0)
    header = (tmp_path / "c" / "model.h").read_text()
    assert f"NET_1_ARENA_BYTES {done.ram_bytes} " in header
    assert f"NET_1_FLASH_BYTES {done.weight_bytes} " in header
    assert "NET_1_INPUT_0_ZERO_POINT 3\n" in header
    assert [layer.name for layer in done.layers] == ["fc"]
    assert sum(layer.flash_bytes for layer in done.layers) == done.weight_bytes
    assert {path.name for path in done.files} == {path.name for path in (tmp_path / "c").iterdir()}


def test_called_from_cpp(tmp_path: Path) -> None:
    if shutil.which("g++") is None:
        pytest.skip("no C++ compiler: install g++")
    export_c(_classifier(), tmp_path / "c")
    (tmp_path / "c" / "main.cpp").write_text('#include "model.h"\nint main() { return net_1_tensor(2) == nullptr ? 0 : 1; }\n')
    done = subprocess.run(["g++", "-Wall", "-Werror", "-c", "main.cpp"], cwd=tmp_path / "c", check=False)
    assert done.returncode == 0


def test_codes_off_the_grid_are_refused(tmp_path: Path, compiler: str) -> None:
    program = _classifier()
    export_c(program, tmp_path / "c")
    compiled = CompiledProgram(program, tmp_path / "c")
    codes = random_codes(program, 2, 0)
    assert torch.equal(compiled(codes)[0], run(program, codes)[0])
    codes[0][1, 5] = 64  # int7 ends at 63
    with pytest.raises(ExportError, match="Sample 1 "):
        compiled(codes)


def test_selftest_takes_real_inputs(tmp_path: Path, compiler: str) -> None:
    export_c(_classifier(), tmp_path / "c", (torch.linspace(-3, 3, 80).view(2, 40),))
    assert "2 samples, 0 wrong" in _make(tmp_path / "c", "test", f"CC={compiler}").stdout


def test_refusals(tmp_path: Path) -> None:
    program = _classifier()
    scale = rescale(torch.tensor(0.1), "float")
    layer = Requantize("cast", ("x",), "z", rescale=scale, low=0, high=7)
    values = {"x": Value("x", (3,), Grid(8, False), 1.0), "z": Value("z", (3,), Grid(3, False), 1.0)}
    floating = IntegerProgram("net", values, (layer,), ("x",), ("z",), "float")
    with pytest.raises(ExportError, match="fixed_point_32"):
        export_c(floating, tmp_path / "c")
    assert not (tmp_path / "c").exists()
    with pytest.raises(DataError, match=r"-64 \.\. 63"):
        export_c(program, tmp_path / "c", (torch.full((1, 40), 64),))
    export_c(program, tmp_path / "c")
    with pytest.raises(HalfstepError, match="force"):
        export_c(program, tmp_path / "c")
    export_c(program, tmp_path / "c", force=True)


@pytest.mark.parametrize(
    ("name", "made"),
    [("resnet20", "resnet20"), ("1/a b", "n_1_a_b"), ("__x__", "x"), ("while", "n_while"), ("é*/", "network"), ("", "network")],
)
def test_names(name: str, made: str, tmp_path: Path, compiler: str) -> None:
    assert identifier(name) == made
    export_c(_classifier(name), tmp_path / "c")
    done = subprocess.run([compiler, *STRICT, "-fsyntax-only", "model.c"], cwd=tmp_path / "c", capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_the_same_function_is_written_once(tmp_path: Path) -> None:
    """Two layers of one shape share code; two equal tables are stored once."""
    values = {name: Value(name, (40,), Grid(8, False), 1.0) for name in "abcd"}
    tables = [Lookup(f"table_{y}", (x,), y, table=torch.arange(256)[None].flip(1)) for x, y in ("ab", "bc", "cd")]
    done = export_c(check(IntegerProgram("net", values, tuple(tables), ("a",), ("d",))), tmp_path / "c")
    assert done.weight_bytes == 256
    assert (tmp_path / "c" / "model.c").read_text().count("HS_LAYER") == 2  # into new memory, and in place
