"""Random programs of all operators: C and interpreter, bit for bit."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from random_programs import random_codes, random_program

SANITIZED = ["-O1", "-g1", "-fsanitize=undefined,address", "-fno-sanitize-recover=all"]
NATIVE = ["-O3", "-march=native"]
# Every way the kernels are built, with the sanitizers: columns in the arena as on a microcontroller, vectors of 16 bytes, by hand.
CHECKED = [
    [*SANITIZED, "-DHS_PAD=4"],
    SANITIZED,
    [*SANITIZED, "-march=native", "-DHALFSTEP_SIMD"],
    [*SANITIZED, "-mavx2", "-DHALFSTEP_SIMD"],
]
FAST = [NATIVE, [*NATIVE, "-DHALFSTEP_SIMD"], ["-O2", "-mavx2", "-DHALFSTEP_SIMD"]]
NUM_SAMPLES = 8  # codes at both ends, zeros, ends mixed, and anything
BATCH = 50


def _cases(first: int, count: int) -> list[Any]:
    drawn = [(seed, random_program(seed)) for seed in range(first, first + count)]
    return [(program, random_codes(program, NUM_SAMPLES, seed)) for seed, program in drawn]


@pytest.mark.parametrize("start", [0, 1, 2, 3])
def test_random_programs(start: int, check_programs: Callable[..., Any]) -> None:
    exports = check_programs(_cases(25 * start, 25), CHECKED[start])
    assert all(export.ram_bytes <= 1.2 * export.largest_live_set for export in exports)


@pytest.mark.slow
@pytest.mark.parametrize("batch", range(42))
def test_two_thousand_programs(batch: int, check_programs: Callable[..., Any]) -> None:
    """Each in one of the builds, all builds in turn."""
    builds = CHECKED + FAST
    exports = check_programs(_cases(1000 + BATCH * batch, BATCH), builds[batch % len(builds)])
    assert all(export.ram_bytes <= 1.2 * export.largest_live_set for export in exports)
