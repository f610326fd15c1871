"""``halfstep reproduce``: the studies of the AdaRound paper and tables of training, on networks at hand or on one's own."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from halfstep.cli import options
from halfstep.cli.options import PreprocessingOptions, load_labelled
from halfstep.cli.terminal import Report, errors, output, progress, say, table, tell
from halfstep.data import load_data
from halfstep.errors import HalfstepError
from halfstep.files import atomic_path
from halfstep.studies import STUDIES, AbstractFigure, Laboratory, Outcome, Settings, Subject, load_subject
from halfstep.studies.abstract import place
from halfstep.studies.page import cells, markdown
from halfstep.studies.plots import require_matplotlib
from halfstep.studies.subject import data_folder, default_names, own_subject

EXAMPLE = "Example: halfstep reproduce table-4 --quick --out studies"
ALL = "all"
RUNS = "runs"  # the folder of finished runs, beside the outcomes of a network
_PANEL = "A network of your own"


def reproduce(
    studies: Annotated[
        list[str],
        typer.Argument(
            metavar="NAME...", help=f"Names from 'halfstep list studies', or '{ALL}' of the AdaRound paper.", show_default=False
        ),
    ],
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="Where tables, plots and finished runs go, a folder a network.")] = Path(
        "halfstep-studies"
    ),
    network: Annotated[
        list[str] | None,
        typer.Option(
            "--network",
            metavar="NAME",
            help="digits, or of the shared data folder (HALFSTEP_DATA) resnet20, resnet32, resnet56, resnet8_mlperf or nin, or with its "
            "images mobilenet_v1_1.0, _0.75, _0.5 or _0.25; may be given more than once. Default: resnet20 and resnet8_mlperf; for "
            "lsq-table resnet20 and mobilenet_v1_1.0, for sat-table mobilenet_v1_1.0 and _0.75; without the folder, digits.",
            show_default=False,
        ),
    ] = None,
    quick: Annotated[
        bool, typer.Option("--quick", help="1,000 iterations, 16 sampled positions a step, 3 seeds, fewer samples of CEM, 1 epoch.")
    ] = False,
    seeds: Annotated[int | None, typer.Option("--seeds", min=1, help="Runs of what is random. Default: 5.", show_default=False)] = None,
    iterations: Annotated[
        int | None, typer.Option("--iterations", min=1, help="Of learned roundings. Default: 10,000.", show_default=False)
    ] = None,
    positions: Annotated[
        int | None,
        typer.Option("--positions", min=1, help="Output positions drawn of each image a step. Default: all.", show_default=False),
    ] = None,
    samples: Annotated[
        int | None, typer.Option("--samples", min=1, help="Images to calibrate on. Default: 1,024.", show_default=False)
    ] = None,
    draws: Annotated[
        int | None, typer.Option("--draws", min=2, help="Roundings in table-1 and figure-1. Default: 100.", show_default=False)
    ] = None,
    epochs: Annotated[
        float | None,
        typer.Option("--epochs", help="Of training in lsq-table and sat-table; a part of one is allowed. Default: 10.", show_default=False),
    ] = None,
    bits: Annotated[int, typer.Option("--bits", min=2, max=8, help="Of the quantized weights.")] = 4,
    other: Annotated[
        str | None,
        typer.Option(
            "--other",
            metavar="DATA",
            help="Another data set for figure-4: digits, Fashion-MNIST's IDX file of images, or 8-bit images in any form of --data. "
            "Default for the networks of the shared folder: digits.",
            show_default=False,
        ),
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Use the finished runs that are already in --out.")] = False,
    model: Annotated[
        str | None,
        typer.Option(
            "--model", metavar="MODEL", help="The network, as 'halfstep quantize' takes it.", rich_help_panel=_PANEL, show_default=False
        ),
    ] = None,
    data: Annotated[
        str | None,
        typer.Option("--data", metavar="DATA", help="Inputs to calibrate on.", rich_help_panel=_PANEL, show_default=False),
    ] = None,
    validation: Annotated[
        str | None,
        typer.Option("--validation", metavar="DATA", help="Labelled inputs to judge by.", rich_help_panel=_PANEL, show_default=False),
    ] = None,
    state_dict: options.StateDict = None,
    mean: options.Mean = None,
    std: options.Std = None,
    scale: options.Scale = None,
    size: options.Size = None,
    crop: options.Crop = None,
) -> None:
    """Repeat tables and figures of the AdaRound paper, and tables of LSQ and SAT, each beside what the paper found.

    For every study and network: a table (Markdown and JSON), for figures a PNG. Every finished run is kept at once; --resume goes on.
    lsq-table and sat-table train every row, which takes hours; a MobileNetV1 that is not at hand is trained in float first.
    """
    names = _names(studies)
    if any(issubclass(STUDIES[name], AbstractFigure) for name in names):
        require_matplotlib()
    given: dict[str, float | None] = {
        "num_seeds": seeds,
        "num_iterations": iterations,
        "num_positions": positions,
        "num_samples": samples,
        "num_draws": draws,
        "num_epochs": epochs,
    }
    start = Settings.quick() if quick else Settings()
    settings = start.model_copy(update={"bits": bits} | {name: value for name, value in given.items() if value is not None})
    preprocessing = PreprocessingOptions(mean, std, scale, size, crop)
    if model is not None:
        plan = [(partial(_own, model, state_dict, data, validation, other, preprocessing), names)]
    else:
        _refuse_own_options(data, validation, state_dict, preprocessing)
        plan = [(partial(load_subject, one, other, out, resume, tell), chosen) for one, chosen in _plan(names, network).items()]
    try:
        for make, chosen in plan:
            subject = make()
            _run(subject, chosen, settings, out / subject.name, resume)
    except KeyboardInterrupt as interrupt:
        raise type(interrupt)(f"Interrupted. Finished runs are kept in '{out}': the same command goes on with --resume.") from None


def _names(studies: list[str]) -> list[str]:
    """The studies in the order given; every name is known."""
    every = sorted((name for name in STUDIES if not STUDIES[name].is_trained), key=place)
    names = list(dict.fromkeys(name for given in studies for name in (every if given == ALL else [given])))
    for name in names:
        STUDIES[name]  # raises, with the closest name
    return names


def _plan(names: list[str], networks: list[str] | None) -> dict[str, list[str]]:
    """The studies of each network: of those that were named all, else of those that each study is made on."""
    found: dict[str, list[str]] = {}
    has_data = data_folder() is not None
    for name in names:
        for network in networks or (STUDIES[name].networks if has_data else ()) or default_names():
            found.setdefault(network, []).append(name)
    return found


def _own(
    model: str, state_dict: Path | None, data: str | None, validation: str | None, other: str | None, given: PreprocessingOptions
) -> Subject:
    if data is None or validation is None:
        raise HalfstepError("A network of your own needs --data (to calibrate on) and --validation (labelled, to judge by).")
    calibration = load_data(data, given.parse())
    return own_subject(model, state_dict, calibration, load_labelled(validation, calibration.preprocessing, "--validation"), other)


def _refuse_own_options(data: str | None, validation: str | None, state_dict: Path | None, preprocessing: PreprocessingOptions) -> None:
    if data is not None or validation is not None or state_dict is not None or preprocessing.parse() is not None:
        raise HalfstepError("--data, --validation, --state-dict and the preprocessing belong to a network of your own: give --model, too.")


def _run(subject: Subject, names: list[str], settings: Settings, folder: Path, resume: bool) -> None:
    """All studies on one network; each is written when it is complete."""
    laboratory = Laboratory(subject, settings, folder / RUNS, resume, tell=tell)
    for name in names:
        study = STUDIES[name]()
        stem = name if study.is_trained or settings.bits == Settings().bits else f"{name}-w{settings.bits}"
        with _reporting() as laboratory.progress:
            outcome = study.run(laboratory)
        if isinstance(study, AbstractFigure):
            outcome = replace(outcome, plot=f"{stem}.png")
            study.plot(outcome, folder / f"{stem}.png")
        outcome.write(folder / f"{stem}.json")
        with atomic_path(folder / f"{stem}.md") as temporary:
            temporary.write_text(markdown(outcome, outcome.plot), encoding="utf-8")
        show(outcome, folder / f"{stem}.md")


def show(outcome: Outcome, path: Path) -> None:
    """Print the table and the verdict."""
    headers, rows = cells(outcome)
    shown = table(*headers)
    for row in rows:
        shown.add_row(*row)
    say(f"{outcome.title}: {outcome.network}, float {outcome.float_top1:.2f} %")
    say(outcome.spent)
    output().print(shown)
    for sentence in outcome.verdict:
        say(sentence)
    say(f"Written to {path}\n")


@contextlib.contextmanager
def _reporting() -> Iterator[Report]:
    """Bars on a terminal; elsewhere a line a finished run on standard error."""
    with progress() as bars:
        yield _Lines().report if bars is None else bars


class _Lines:
    """study: the one at work. It says after every finished run how many are done and how long the others will take at this pace."""

    def __init__(self) -> None:
        self._study, self._started, self._num_done = "", 0.0, 0

    def report(self, study: str, done: float, total: int | None) -> None:
        if study != self._study:
            self._study, self._started, self._num_done = study, time.monotonic(), 0
        if total is None or int(done) == self._num_done:
            return
        self._num_done = int(done)
        left = (time.monotonic() - self._started) / self._num_done * (total - self._num_done)
        minutes = f", about {left / 60:.0f} min left" if self._num_done < total else ""
        errors().print(f"{study}: {self._num_done} of {total} runs{minutes}")
