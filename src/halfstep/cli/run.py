"""One run into one directory: what ``quantize``, ``finetune`` and ``demo`` have in common."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import halfstep as hs
from halfstep import parallel
from halfstep.cli.terminal import PIPE_WIDTH, output, progress, say, tell
from halfstep.data import Data
from halfstep.files import atomic_directory
from halfstep.quantizers.learned import has_levels_of_its_own
from halfstep.report.record import RunRecord
from halfstep.report.table import summary
from halfstep.report.words import check_sentences, float_sentence, program_sentences
from halfstep.workflow.result import ONNX_FILE, RECORD_FILE, REPORT_FILE

_NOT_EXPORTED = "No ONNX file: levels that are no grid have no form there. Train with another quantizer, such as lsq, to export."


def run(
    make: Callable[..., hs.Result],
    out: Path,
    *,
    validation: Data | None = None,
    resume: bool = False,
    force: bool = False,
    is_timed: bool = False,
    is_lowered: bool = False,
    json: Path | None = None,
) -> None:
    """Make a result, export, evaluate and save it into ``out``, then print the summary. ``out`` appears whole at the end, or not at all.

    make: `hs.quantize` or `hs.finetune` with its own arguments given. Long steps keep what they have finished in a folder beside ``out``
    until then; ``resume`` goes on from there. Of several processes (``torchrun``) all take part and the first one writes.
    """
    with parallel.processes():
        make = partial(make, checkpoint=beside(out), resume=resume)
        if parallel.index() > 0:
            make()
            return
        with _resumable(beside(out)), atomic_directory(out, force) as folder, progress() as report_progress:
            result = make(progress=report_progress, tell=tell)
            if is_lowered:
                hs.lower(result)
            result.save(folder)
            is_exported = not has_levels_of_its_own(result.model)
            if is_exported:
                hs.export.onnx(result, folder / ONNX_FILE)
            if is_timed and is_exported:
                if report_progress is not None:
                    report_progress("latency", 0, None)
                result.measure_latency()
            report = result.report(evaluate=None if validation is None else hs.top1, data=validation)
            report.html(folder / REPORT_FILE)
            report.json(folder / RECORD_FILE)
    if json is not None:  # only now: it may lie inside ``out``
        report.json(json)
    _show(report.record, out, is_exported)


def _show(record: RunRecord, out: Path, is_exported: bool) -> None:
    """The summary, and where things are."""
    output().print(summary(record))
    say(float_sentence(record.float_check))
    if is_exported:
        for line in textwrap.wrap(" ".join(check_sentences(record.export_check)), PIPE_WIDTH):
            say(line)
    if record.program is not None:
        for line in textwrap.wrap(" ".join(program_sentences(record.program)), PIPE_WIDTH):
            say(line)
    for note in record.notes:
        say(f"Note: {note}")
    say(f"Report: {out / REPORT_FILE}")
    say(f"Model:  {out / ONNX_FILE}" if is_exported else _NOT_EXPORTED)


def beside(out: Path) -> Path:
    """Where a run into ``out`` keeps what it has finished so far."""
    return out.absolute().with_name(f"{out.absolute().name}.checkpoint")


@contextmanager
def _resumable(checkpoint: Path) -> Iterator[None]:
    """Say how an interrupted run can be continued, where it can."""
    try:
        yield
    except KeyboardInterrupt:
        if not checkpoint.is_dir():
            raise
        raise KeyboardInterrupt(
            f"Interrupted: what is finished so far lies in '{checkpoint}'. The same command with --resume goes on from there."
        ) from None
