"""One run into one directory: what ``quantize``, ``finetune`` and ``demo`` have in common."""

from __future__ import annotations

import shlex
import textwrap
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import halfstep as hs
from halfstep import parallel
from halfstep.cli.messages import message
from halfstep.cli.terminal import PIPE_WIDTH, Report, output, progress, say, tell
from halfstep.data import Data
from halfstep.digests import digest
from halfstep.errors import HalfstepError, OutOfMemoryError, is_out_of_memory
from halfstep.files import atomic_directory, claimed, refuse_filled
from halfstep.quantizers.learned import has_levels_of_its_own
from halfstep.report.record import RunRecord
from halfstep.report.report import Report as FinishedReport
from halfstep.report.table import summary
from halfstep.report.verdict import quality_sentence
from halfstep.report.words import check_sentences, float_sentence, program_sentences
from halfstep.steps.checkpoint import Checkpoint
from halfstep.workflow.result import ONNX_FILE, REPORT_FILE, WEIGHTS_FILE

_NOT_EXPORTED = "No ONNX file: levels that are no grid have no form there. Train with another quantizer, such as lsq, to export."
_SAVED = ("run", "saved")  # the entry of a checkpoint that says which network its run has saved


@dataclass(frozen=True)
class Wanted:
    """What a run directory holds beside the quantized network. validation: data to measure accuracy on. is_timed: whether the export is
    timed. is_lowered: whether there is an integer program.
    """

    validation: Data | None = None
    is_timed: bool = False
    is_lowered: bool = False


def run(
    make: Callable[..., hs.Result],
    out: Path,
    wanted: Wanted,
    *,
    can_resume: bool = True,
    resume: bool = False,
    force: bool = False,
    json: Path | None = None,
) -> None:
    """Make a result, save it as ``out``, export and evaluate it, save it with all that again, and print the summary.

    ``out`` is whole whenever it is there: as soon as there is a quantized network it holds that, and is replaced by one that also holds
    what is ``wanted``. What fails in between leaves the first one. Long steps keep what they have finished in a folder beside ``out`` until
    everything is there, and ``resume`` goes on from it; not so where one can not resume. Of several processes (``torchrun``) all take part
    and the first one writes.

    make: `hs.quantize` or `hs.finetune` with its own arguments given.
    """
    place = beside(out) if can_resume else None
    with parallel.processes():
        if parallel.index() > 0:
            make(checkpoint=place, resume=resume)
            return
        with claimed(out), progress() as report_progress, ExitStack() as ending:
            refuse_filled(out, force or (resume and _is_own(out)))
            if resume and not beside(out).is_dir():
                tell(f"There is nothing to go on from in '{beside(out)}': the run begins anew.")
            with _saying(lambda: _how_to_resume(out, place)):
                result = make(checkpoint=place, resume=resume, progress=report_progress, tell=tell)
                if result.checkpoint is not None:
                    ending.callback(result.checkpoint.release)
                _save(result, out)
            with _saying(lambda: _how_to_export(out, result, can_resume)):
                report = _complete(result, out, wanted, report_progress)
                if json is not None:  # only now: it may lie inside ``out``
                    report.json(json)
            if result.checkpoint is not None:
                result.checkpoint.clear()
    _show(result.record, out)


def beside(out: Path) -> Path:
    """Where a run into ``out`` keeps what it has finished so far."""
    return out.absolute().with_name(f"{out.absolute().name}.checkpoint")


def _is_own(out: Path) -> bool:
    """Whether ``out`` holds what the run that is to be resumed saved there before it came to its end."""
    weights = out / WEIGHTS_FILE
    return weights.is_file() and Checkpoint(beside(out), {}).read_rest(*_SAVED).get("weights") == digest(weights)


def _save(result: hs.Result, out: Path) -> None:
    """The quantized network as ``out``; the checkpoint stays, and knows it."""
    with atomic_directory(out, force=True) as folder:
        result.write(folder)
        if result.checkpoint is not None:
            result.checkpoint.write(*_SAVED, {}, {"weights": digest(folder / WEIGHTS_FILE)})


def _complete(result: hs.Result, out: Path, wanted: Wanted, report_progress: Report | None) -> FinishedReport:
    """The same with everything that is wanted in the place of ``out``, and its report."""
    with atomic_directory(out, force=True) as folder:
        if wanted.is_lowered:
            hs.lower(result)
        if not has_levels_of_its_own(result.model):
            hs.export.onnx(result, folder / ONNX_FILE)
            if wanted.is_timed:
                if report_progress is not None:
                    report_progress("latency", 0, None)
                result.measure_latency()
        report = result.report(evaluate=None if wanted.validation is None else hs.top1, data=wanted.validation)
        result.write(folder)
        return report


def _show(record: RunRecord, out: Path) -> None:
    """The summary, and where things are."""
    output().print(summary(record))
    say(float_sentence(record.float_check))
    sentences = [] if record.quality is None else [[quality_sentence(record.quality)]]
    sentences += [] if record.export_check is None else [check_sentences(record.export_check)]
    sentences += [] if record.program is None else [program_sentences(record.program)]
    for found in sentences:
        for line in textwrap.wrap(" ".join(found), PIPE_WIDTH):
            say(line)
    for note in record.notes:
        say(f"Note: {note}")
    say(f"Report: {out / REPORT_FILE}")
    say(_NOT_EXPORTED if record.export_check is None else f"Model:  {out / ONNX_FILE}")


@contextmanager
def _saying(what_is_kept: Callable[[], str | None]) -> Iterator[None]:
    """Add to whatever ends the block what is kept of the run, and how to go on from it."""
    try:
        yield
    except KeyboardInterrupt as interrupt:
        kept = what_is_kept()
        if kept is None:
            raise
        raise type(interrupt)(f"Interrupted. {kept}") from None
    except Exception as error:
        text, kept = message(error), what_is_kept()
        if kept is None or (text is not None and "--resume" in text):  # what resumes says itself why it does not
            raise
        if text is None:  # a defect, which shows its traceback
            tell(kept)
            raise
        kind = OutOfMemoryError if is_out_of_memory(error) else HalfstepError
        raise kind(f"{text} {kept}") from error


def _how_to_resume(out: Path, place: Path | None) -> str | None:
    """Where there is something to go on from."""
    if place is None or not place.is_dir():
        return None
    return (
        f"What is finished so far is kept in '{place}': the same command with --resume goes on from there. For another --out, "
        "give that folder its name first, with '.checkpoint' behind it."
    )


def _how_to_export(out: Path, result: hs.Result, can_resume: bool) -> str:
    """Of a network that is saved, but not all that is wanted with it."""
    ways = ["the same command with --resume does what is left"] if can_resume else []
    if not has_levels_of_its_own(result.model):
        ways.append(f"'halfstep export {shlex.quote(str(out))} --out FILE.onnx' exports it alone")
    return f"The quantized network is saved in '{out}': {', and '.join(ways)}."
