"""``halfstep benchmark``: latency, throughput, size and memory of an exported file, beside the float network."""

from __future__ import annotations

import dataclasses
import tempfile
from pathlib import Path
from typing import Annotated

import typer

import halfstep as hs
from halfstep.cli import options
from halfstep.cli.terminal import output, say, table, write_json
from halfstep.errors import DataError, ModelError
from halfstep.report import words
from halfstep.workflow.benchmark import Benchmark, Spread
from halfstep.workflow.benchmark import benchmark as measure
from halfstep.workflow.result import ONNX_FILE, refuse_changed

EXAMPLE = "Example: halfstep benchmark digits-int8 --batch 1,8 --threads 1"


def benchmark(
    model: Annotated[Path, typer.Argument(metavar="DIR_OR_ONNX", help="A run directory of 'halfstep quantize', or an ONNX file.")],
    against: Annotated[
        Path | None,
        typer.Option(
            "--against", metavar="FLOAT.onnx", help="The file to compare with. Default of a run: its float network.", show_default=False
        ),
    ] = None,
    batch: Annotated[str, typer.Option("--batch", metavar="NUMBERS", help="Batch sizes, with commas.")] = "1,8",
    threads: Annotated[
        str | None, typer.Option("--threads", metavar="NUMBERS", help="Threads, with commas. Default: one and all.", show_default=False)
    ] = None,
    seconds: Annotated[float, typer.Option("--seconds", min=0.1, help="At most so long for each row.")] = 5.0,
    shape: Annotated[
        str | None,
        typer.Option("--shape", metavar="NUMBERS", help="Sizes behind the batch, where the file leaves them free.", show_default=False),
    ] = None,
    allow_changed: options.AllowChanged = False,
    json: options.Json = None,
) -> None:
    """Time an exported file in ONNX Runtime, and in OpenVINO where it is installed, in turn with the float network.

    Random inputs, both files in one process, A B A B ... The ratio is that of the medians; in brackets the 10th and 90th percentile of the
    rounds. OpenVINO computes floats in float32 here. Memory is the peak of a fresh process that loads the file and runs it once.
    """
    numbers = {"batch_sizes": _numbers("--batch", batch), "num_threads": None if threads is None else _numbers("--threads", threads)}
    sizes = None if shape is None else _numbers("--shape", shape)
    with tempfile.TemporaryDirectory() as directory:
        file, other = _files(model, against, Path(directory), allow_changed)
        found = measure(
            file, other, batch_sizes=numbers["batch_sizes"] or (1,), num_threads=numbers["num_threads"], seconds=seconds, shape=sizes
        )
    if json is not None:
        write_json(dataclasses.asdict(found), json)
    _print(found)


def _files(model: Path, against: Path | None, folder: Path, allow_changed: bool) -> tuple[Path, Path | None]:
    """The file to time, and the one to compare it with."""
    if not model.is_dir():
        return _existing(model), None if against is None else _existing(against)
    if not (model / ONNX_FILE).is_file():
        raise ModelError(f"'{model}' holds no {ONNX_FILE}: give a run directory of 'halfstep quantize', or an ONNX file.")
    if against is not None:
        if not allow_changed:
            refuse_changed(model)
        return model / ONNX_FILE, _existing(against)
    from halfstep.export.onnx_qdq import export_onnx

    result = hs.load(model, allow_changed)
    export_onnx(result.float_model, folder / "float.onnx", result.samples)
    return model / ONNX_FILE, folder / "float.onnx"


def _existing(path: Path) -> Path:
    if not path.is_file():
        raise ModelError(f"There is no file '{path}'.")
    return path


def _numbers(option: str, text: str) -> tuple[int, ...]:
    try:
        found = tuple(int(part) for part in text.split(","))
    except ValueError:
        found = ()
    if not found or min(found) < 1:
        raise DataError(f"{option} has '{text}' where whole numbers with commas between them should be, for instance {option} 1,8.")
    return found


def _print(found: Benchmark) -> None:
    columns = list(found.files)
    speed = table("runtime", "threads", "batch", *(f"{name}, ms" for name in columns), *(f"{name}, 1/s" for name in columns), "faster")
    for row in found.speeds:
        figures = [*(row.milliseconds[name].median for name in columns), *(row.per_second[name] for name in columns)]
        cells = [f"{figure:.4g}" for figure in figures]
        speed.add_row(row.runtime, str(row.num_threads), str(row.batch_size), *cells, _spread(row.ratio))
    output().print(speed)
    cost = table("", "file size", *(f"peak memory, {runtime}" for runtime in found.memory))
    for name in columns:
        cost.add_row(name, words.size(found.bytes[name]), *(words.size(by_file[name]["peak"]) for by_file in found.memory.values()))
    output().print(cost)
    for note in found.notes:
        say(f"Note: {note}")


def _spread(figures: Spread | None) -> str:
    return words.DASH if figures is None else f"{figures.median:.3g} [{figures.low:.3g} … {figures.high:.3g}]"
