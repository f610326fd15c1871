"""``halfstep export``: a run directory as a file for another runtime, checked against the simulation."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated

import typer

import halfstep as hs
from halfstep.cli import options
from halfstep.cli.terminal import say, write_json
from halfstep.errors import ExportError, did_you_mean
from halfstep.report import words

EXAMPLE = "Example: halfstep export digits-int8 --format onnx --out digits.onnx"
FORMATS = {"onnx": hs.export.onnx}


def export(
    run: Annotated[Path, typer.Argument(metavar="DIR", help="A run directory of 'halfstep quantize'.")],
    out: Annotated[Path, typer.Option("--out", metavar="FILE", help="The file to write.", show_default=False)],
    format_name: Annotated[str, typer.Option("--format", metavar="FORMAT", help=f"One of: {', '.join(FORMATS)}.")] = "onnx",
    force: options.Force = False,
    json: options.Json = None,
) -> None:
    """Write the quantized network of a run for another runtime, run it there, and compare it with the simulation.

    Where the two differ beyond the stated bound, nothing is written.
    """
    if format_name not in FORMATS:
        raise ExportError(f"Unknown format '{format_name}'. {did_you_mean(format_name, FORMATS)}")
    if out.exists() and not force:
        raise ExportError(f"'{out}' exists already: pass --force to replace it, or choose another name.")
    check = FORMATS[format_name](hs.load(run), out)
    if json is not None:
        write_json(None if check is None else dataclasses.asdict(check), json)
    for sentence in words.check_sentences(check):
        say(sentence)
    say(f"Model: {out}")
