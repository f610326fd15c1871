"""The self test on other processors, under QEMU: Cortex-M4 and M7 bare metal, and a big-endian machine."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from random_programs import random_codes, random_program

from halfstep.export.c99 import export_c
from halfstep.integer import IntegerProgram

pytestmark = pytest.mark.slow
CORTEX = Path(__file__).parent / "cortex"
STRICT = ["-std=c99", "-Wall", "-Wextra", "-Wconversion", "-Werror", "-pedantic"]
BOARDS = {"cortex-m4": "mps2-an386", "cortex-m7": "mps2-an500"}
SEEDS = range(20)
Record = Callable[[str, object], None]


def _need(*tools: str) -> None:
    missing = [tool for tool in tools if shutil.which(tool) is None]
    if missing:
        pytest.skip(f"not installed: {', '.join(missing)}")


def _execute(command: list[str], folder: Path) -> str:
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, f"{' '.join(command)}\n{done.stdout[:2000]}{done.stderr[:2000]}"
    return done.stdout


def on_cortex(folder: Path, cpu: str, *flags: str) -> dict[str, int]:
    """Build the exported ``folder`` for ``cpu``, run its self test there; bytes of code, constants and memory of ``model.o``."""
    compiler = ["arm-none-eabi-gcc", f"-mcpu={cpu}", "-mthumb", "-O2"]
    _execute([*compiler, *STRICT, *flags, "-c", "model.c", "-o", "model.o"], folder)
    linked = ["--specs=rdimon.specs", "-nostartfiles", "-T", str(CORTEX / "mps2.ld"), str(CORTEX / "startup.c")]
    _execute([*compiler, *linked, "selftest.c", "model.o", "-o", "selftest.elf"], folder)
    machine = ["qemu-system-arm", "-machine", BOARDS[cpu], "-nographic", "-monitor", "none"]
    printed = _execute([*machine, "-semihosting-config", "enable=on,target=native", "-kernel", "selftest.elf"], folder)
    assert " 0 wrong codes" in printed
    text, data, bss = _execute(["arm-none-eabi-size", "model.o"], folder).splitlines()[1].split()[:3]
    return {"flash": int(text) + int(data), "ram": int(data) + int(bss)}


@pytest.mark.parametrize("flags", [(), ("-DHALFSTEP_SIMD",)], ids=["plain", "smlad"])
@pytest.mark.parametrize("cpu", BOARDS)
def test_cortex(cpu: str, flags: tuple[str, ...], tmp_path: Path, record_property: Record) -> None:
    _need("arm-none-eabi-gcc", "qemu-system-arm")
    for seed in SEEDS:
        program = random_program(seed)
        done = export_c(program, tmp_path / str(seed), random_codes(program, 4, seed))
        sizes = on_cortex(tmp_path / str(seed), cpu, *flags)
        assert sizes["ram"] == 0  # the arena is the caller's
        assert sizes["flash"] >= done.weight_bytes
        record_property(f"{program.name} on {cpu}", sizes)


@pytest.mark.parametrize("cpu", BOARDS)
def test_resnet8_on_cortex(cpu: str, lowered: Callable[[str, str], IntegerProgram], tmp_path: Path, record_property: Record) -> None:
    _need("arm-none-eabi-gcc", "qemu-system-arm")
    for recipe in ("int8", "w4a8"):
        program = lowered("resnet8_mlperf", recipe)
        done = export_c(program, tmp_path / recipe, random_codes(program, 2, 0))
        for flags in ((), ("-DHALFSTEP_SIMD",)):
            sizes = on_cortex(tmp_path / recipe, cpu, *flags)
            told = f"flash {sizes['flash']} bytes, {done.weight_bytes} of them constants; arena {done.ram_bytes} bytes"
            record_property(f"resnet8_mlperf {recipe} on {cpu} {' '.join(flags)}", told)
            print(f"resnet8_mlperf {recipe} on {cpu} {' '.join(flags)}: {told}")  # noqa: T201


def test_big_endian(tmp_path: Path) -> None:
    _need("powerpc-linux-gnu-gcc", "qemu-ppc")
    for seed in SEEDS:
        program = random_program(seed)
        export_c(program, tmp_path / str(seed), random_codes(program, 4, seed))
        _execute(["powerpc-linux-gnu-gcc", *STRICT, "-O1", "-static", "-o", "selftest", "model.c", "selftest.c"], tmp_path / str(seed))
        assert " 0 wrong codes" in _execute(["qemu-ppc", "./selftest"], tmp_path / str(seed))
