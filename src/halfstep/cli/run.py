"""One run into one directory: what ``quantize`` and ``demo`` have in common."""

from __future__ import annotations

import textwrap
from pathlib import Path

import torch

import halfstep as hs
from halfstep.cli.terminal import PIPE_WIDTH, output, progress, say
from halfstep.data import Data
from halfstep.files import atomic_directory
from halfstep.report.table import summary
from halfstep.report.words import check_sentences
from halfstep.workflow.result import ONNX_FILE, RECORD_FILE, REPORT_FILE


def run(
    model: torch.nn.Module | torch.export.ExportedProgram,
    calibration: Data,
    recipe: hs.Recipe,
    out: Path,
    *,
    validation: Data | None = None,
    samples: int = 512,
    seed: int = 0,
    statistics: Path | None = None,
    force: bool = False,
    is_timed: bool = False,
    json: Path | None = None,
) -> None:
    """Quantize, export, evaluate and save into ``out``, then print the summary. ``out`` appears whole at the end, or not at all."""
    with atomic_directory(out, force) as folder, progress() as report_progress:
        result = hs.quantize(model, calibration, recipe, seed=seed, samples=samples, statistics=statistics, progress=report_progress)
        result.save(folder)
        hs.export.onnx(result, folder / ONNX_FILE)
        if is_timed:
            if report_progress is not None:
                report_progress("latency", 0, None)
            result.measure_latency()
        report = result.report(evaluate=None if validation is None else hs.top1, data=validation)
        report.html(folder / REPORT_FILE)
        report.json(folder / RECORD_FILE)
    if json is not None:  # only now: it may lie inside ``out``
        report.json(json)
    output().print(summary(report.record))
    for line in textwrap.wrap(" ".join(check_sentences(report.record.export_check)), PIPE_WIDTH):
        say(line)
    for note in report.record.notes:
        say(f"Note: {note}")
    say(f"Report: {out / REPORT_FILE}")
    say(f"Model:  {out / ONNX_FILE}")
