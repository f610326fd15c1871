"""``halfstep export``: a run directory as files for another runtime, checked against the simulation or the integer program."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Annotated, Any, get_args

import typer

import halfstep as hs
from halfstep.cli import options
from halfstep.cli.terminal import say, write_json
from halfstep.errors import ExportError, did_you_mean
from halfstep.integer import quantize_inputs
from halfstep.integer.requantization import MODES
from halfstep.report import words
from halfstep.targets import GroupForm

GROUP_FORMS = get_args(GroupForm)
EXAMPLE = "Example: halfstep export digits-int8 --format c --out digits_c"


def export(
    run: Annotated[Path, typer.Argument(metavar="DIR", help="A run directory of 'halfstep quantize'.")],
    out: Annotated[Path, typer.Option("--out", metavar="PATH", help="The file to write; for C a folder.", show_default=False)],
    format_name: Annotated[
        str,
        typer.Option("--format", metavar="FORMAT", help="One of: onnx (QDQ), onnx-integer, c, program."),
    ] = "onnx",
    target: options.Target = None,
    requantization: Annotated[
        str | None,
        typer.Option(
            "--requantization",
            metavar="MODE",
            help=f"Of the integer formats, instead of the recipe's: {', '.join(MODES)}.",
            show_default=False,
        ),
    ] = None,
    groups: Annotated[
        str | None,
        typer.Option(
            "--groups",
            metavar="FORM",
            help=f"How ONNX holds weights with a scale for each group of inputs: {', '.join(GROUP_FORMS)}. Default: the target's.",
            show_default=False,
        ),
    ] = None,
    allow_changed: options.AllowChanged = False,
    force: options.Force = False,
    json: options.Json = None,
) -> None:
    """Write the quantized network of a run for another runtime, and compare what it computes.

    An ONNX file with QuantizeLinear and DequantizeLinear is run and compared with the simulation, layer by layer. The integer formats come
    from the integer program, which is compared with the simulation; ONNX of integers alone is then run and must equal the program bit for
    bit, C comes with a self test that must. Where anything differs beyond its bound, nothing is written.
    """
    if format_name not in FORMATS:
        raise ExportError(f"Unknown format '{format_name}'. {did_you_mean(format_name, FORMATS)}")
    if format_name == "onnx" and requantization is not None:
        raise ExportError("--requantization is for the integer formats: a QDQ file rescales as its runtime does.")
    if groups is not None and groups not in GROUP_FORMS:
        raise ExportError(f"Unknown form of groups '{groups}'. {did_you_mean(groups, GROUP_FORMS)}")
    if format_name != "onnx" and target is not None:
        raise ExportError("--target is for QDQ files: the integer formats compute the same everywhere.")
    if out.is_file() and not force:
        raise ExportError(f"'{out}' exists already: pass --force to replace it, or choose another name.")
    write = partial(_onnx, target=target, groups=groups) if format_name == "onnx" else FORMATS[format_name]  # type: ignore[arg-type]
    found, sentences = write(hs.load(run, allow_changed), out, requantization, force)
    if json is not None:
        write_json(found, json)
    for sentence in sentences:
        say(sentence)
    say(f"Model: {out}")


Found = tuple[Any, list[str]]


def _onnx(
    result: hs.Result, out: Path, requantization: str | None, force: bool, target: str | None = None, groups: GroupForm | None = None
) -> Found:
    check = hs.export.onnx(result, out, target, groups=groups)
    return dataclasses.asdict(check), words.check_sentences(check)


def _lowered(result: hs.Result, requantization: str | None) -> tuple[hs.IntegerProgram, dict[str, Any], list[str]]:
    program = hs.lower(result, requantization)
    assert result.record.program is not None
    return program, dataclasses.asdict(result.record.program), words.program_sentences(result.record.program)


def _program(result: hs.Result, out: Path, requantization: str | None, force: bool) -> Found:
    program, found, sentences = _lowered(result, requantization)
    program.save(out)
    return {"program": found}, sentences


def _onnx_integer(result: hs.Result, out: Path, requantization: str | None, force: bool) -> Found:
    program, found, sentences = _lowered(result, requantization)
    written = hs.export.onnx_integer(program, out, quantize_inputs(program, result.samples))
    equal = f"The file was run in ONNX Runtime on {written.num_samples} samples: all {written.num_codes} codes equal the program's."
    return {"program": found, "file": dataclasses.asdict(written) | {"path": str(out)}}, [*sentences, equal]


def _c(result: hs.Result, out: Path, requantization: str | None, force: bool) -> Found:
    program, found, sentences = _lowered(result, requantization)
    tested = tuple(codes[:_NUM_TESTED] for codes in quantize_inputs(program, result.samples))
    written = hs.export.c(program, out, tested, force)
    sizes = (
        f"Constant data: {words.size(written.weight_bytes)}; working memory: {words.size(written.ram_bytes)}, of which "
        f"{words.size(written.largest_live_set)} are in use at once. 'make test' in the folder compares {len(tested[0])} samples."
    )
    described = dataclasses.asdict(written) | {"files": [str(file) for file in written.files]}
    return {"program": found, "c": described}, [*sentences, sizes]


_NUM_TESTED = 8  # samples of the self test: they are part of its source
FORMATS: dict[str, Callable[[hs.Result, Path, str | None, bool], Found]] = {
    "onnx": _onnx,
    "onnx-integer": _onnx_integer,
    "c": _c,
    "program": _program,
}
