"""``halfstep demo``: the real pipeline on the embedded digits network, ready at once."""

from __future__ import annotations

import shlex
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

import halfstep as hs
from halfstep.cli import options
from halfstep.cli.run import Wanted, run
from halfstep.cli.terminal import program, say
from halfstep.data import load_data

EXAMPLE = "Example: halfstep demo --out halfstep-demo"
MODEL, CALIBRATION, VALIDATION = "halfstep.demo.network:digits_network", "digits:calibration", "digits:test"


def demo(
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="Where the run goes: a new or empty folder.")] = Path("halfstep-demo"),
    force: options.Force = False,
    json: options.Json = None,
) -> None:
    """Quantize a small trained network for handwritten digits, export it, run it in ONNX Runtime, and report what was lost."""
    calibration = load_data(CALIBRATION)
    recipe = hs.Recipe.load("int8").with_preprocessing(calibration.preprocessing)
    make = partial(hs.quantize, hs.load_model(MODEL), calibration, recipe)
    run(make, out, Wanted(load_data(VALIDATION), is_timed=True), can_resume=False, force=force, json=json)
    say("\nTry next:")
    for command in next_commands(program(), out):
        say(f"  {command}")


def next_commands(name: str, out: Path) -> tuple[str, ...]:
    """Three commands that work as they stand, in the folder the demo was run in."""
    folder = shlex.quote(str(out))
    return (
        f"{name} quantize {MODEL} --data {CALIBRATION} --validation {VALIDATION} --recipe w4a8 --out digits-w4a8",
        f"{name} evaluate {folder} --data {VALIDATION}",
        f"{name} export {folder} --format onnx --out digits.onnx",
    )
