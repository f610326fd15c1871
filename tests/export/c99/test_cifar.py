"""Trained networks, quantized and lowered: C and interpreter on a thousand images."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest
import torch

from halfstep.export.c99 import export_c
from halfstep.export.c99.native import CompiledProgram
from halfstep.integer import IntegerProgram, quantize_inputs, run

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("recipe", ["int8", "w4a8"])
@pytest.mark.parametrize("network", ["resnet8_mlperf", "resnet20"])
def test_a_thousand_images(
    network: str, recipe: str, lowered: Callable[[str, str], IntegerProgram], cifar: ModuleType, tmp_path: Path, compiler: str
) -> None:
    program = lowered(network, recipe)
    images = cifar.normalize(cifar.load_split("validation")[0][:1000], network)
    done = export_c(program, tmp_path / "c", (images[:4],))
    assert done.ram_bytes <= 1.2 * done.largest_live_set
    codes = quantize_inputs(program, (images,))
    expected = run(program, codes)
    for flags in (("-O3", "-march=native"), ("-O3", "-march=native", "-DHALFSTEP_SIMD")):
        found = CompiledProgram(program, tmp_path / "c", flags)(codes)
        assert all(torch.equal(one, other) for one, other in zip(found, expected, strict=True))
