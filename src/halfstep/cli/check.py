"""``halfstep check``: which operators of a quantized ONNX file run as integers, in which runtime, and why the others do not."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Annotated

import typer

import halfstep as hs
from halfstep.cli import options
from halfstep.cli.terminal import output, say, table, write_json
from halfstep.errors import first_few
from halfstep.runtimes import RUNTIMES, OnnxCheck, OperatorCheck

EXAMPLE = "Example: halfstep check digits-int8/model.onnx --runtime onnxruntime --strict"
_NUM_NAMED = 4  # operators named behind a reason
_NUM_NOTES = 8


def check(
    model: Annotated[Path, typer.Argument(metavar="MODEL.onnx", help="Any quantized ONNX file: Q/DQ nodes or integer operators.")],
    runtime: Annotated[
        list[str] | None,
        typer.Option("--runtime", metavar="NAME", help=f"Once or more, of: {', '.join(RUNTIMES)}. Default: all.", show_default=False),
    ] = None,
    strict: Annotated[
        bool,
        typer.Option("--strict", help="Leave with status 1 where a convolution or matrix product is computed in float in one of them."),
    ] = False,
    json: options.Json = None,
) -> None:
    """Tell for each operator of a quantized ONNX file whether a runtime computes it with integers, and why where it does not.

    A table of rules decides. ONNX Runtime, and OpenVINO where it is installed, then load the file and show what they execute; where that
    differs from the rule, it is said. TensorRT is judged by its documentation alone.
    """
    found = hs.check_onnx(model, tuple(dict.fromkeys(runtime)) if runtime else RUNTIMES)
    if json is not None:
        write_json(found.to_json(), json)
    shown = table(str(model), "count", *found.runtimes)
    for row in rows(found):
        shown.add_row(*row)
    output().print(shown)
    for line in sentences(found):
        say(line)
    if strict and not found.is_integer:
        raise typer.Exit(1)


def rows(found: OnnxCheck) -> list[tuple[str, ...]]:
    """One row a kind of operator and its verdicts: type, how many, "integer" or "float" in each runtime; heavy operators first."""
    counted = Counter((entry.op_type, entry.is_heavy, *(cell(entry, runtime) for runtime in found.runtimes)) for entry in found.operators)
    ordered = sorted(counted.items(), key=lambda item: (not item[0][1], str(item[0][0])))
    return [(str(key[0]), str(count), *(str(text) for text in key[2:])) for key, count in ordered]


def cell(entry: OperatorCheck, runtime: str) -> str:
    """ "integer", "integer, slow", "float" or "refused"."""
    verdict = entry.verdicts[runtime]
    if verdict.is_refused:
        return "refused"
    return ("integer, see below" if verdict.reason else "integer") if verdict.is_integer else "float"


def sentences(found: OnnxCheck) -> list[str]:
    """For each runtime how much of the heavy work is done with integers, then every reason with the operators it holds for."""
    lines = []
    for runtime in found.runtimes:
        heavy = [entry for entry in found.operators if entry.is_heavy]
        verdicts = [entry.verdicts[runtime] for entry in heavy]
        num_integer = sum(verdict.is_integer for verdict in verdicts)
        confirmed = "seen in what it executes" if any(verdict.is_confirmed is not None for verdict in verdicts) else "by the rules"
        lines.append(f"{runtime}: {num_integer} of {len(heavy)} convolutions and matrix products with integers ({confirmed}).")
        if any(entry.verdicts[runtime].is_refused for entry in found.operators):
            lines.append(f"  {runtime} does not load this file.")
        lines += [f"  {line}" for line in reasons(found, runtime)]
    extra = len(found.notes) - _NUM_NOTES
    return [*lines, *(f"Note: {note}" for note in found.notes[:_NUM_NOTES]), *([f"… and {extra} notes more."] if extra > 0 else [])]


def reasons(found: OnnxCheck, runtime: str) -> list[str]:
    """One line a reason: the operators, what is the matter, the way out."""
    named: dict[tuple[str, str], list[str]] = {}
    for entry in found.operators:
        verdict = entry.verdicts[runtime]
        if verdict.reason:
            named.setdefault((verdict.reason, verdict.remedy), []).append(f"{entry.op_type} '{entry.name}'")
    lines = []
    for (reason, remedy), operators in named.items():
        lines.append(f"{first_few(operators, _NUM_NAMED)}: {reason}.{' ' * bool(remedy)}{remedy}")
    return lines
