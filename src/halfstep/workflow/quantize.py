"""From a trained network and a few hundred inputs to a quantized graph, in one call."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import ExportedProgram
from torch.fx import GraphModule

from halfstep import parallel
from halfstep.data import Batch, Data
from halfstep.errors import CalibrationError
from halfstep.graph.capture import capture
from halfstep.graph.run import check_inputs
from halfstep.graph.statistics import Statistics, fingerprint
from halfstep.graph.witness import Witness
from halfstep.recipes import Recipe
from halfstep.report.costs import layer_costs
from halfstep.report.environment import machine, versions
from halfstep.report.layers import describe_layers, float_bytes, float_operators, num_bytes
from halfstep.report.quality import measure_quality
from halfstep.report.record import FloatCheck, RunRecord
from halfstep.report.verdict import is_poor, way_out
from halfstep.report.words import poor_layers
from halfstep.steps import Context, Finetune
from halfstep.steps.abstract import Progress, Tell
from halfstep.steps.checkpoint import Checkpoint
from halfstep.steps.pipeline import Outcome, run_steps
from halfstep.stopwatch import Stopwatch, peak_rss_bytes
from halfstep.workflow.evaluate import prepare
from halfstep.workflow.result import STATISTICS_FILE, Result
from halfstep.workflow.teacher import Teacher, capture_teachers

BATCH_SIZE = 32
_NUM_KEPT = 32  # calibration inputs kept to verify exports and to measure SQNR
_NUM_FRESH = 64  # inputs that were not calibrated on, to say how good the result is
_KEPT_BYTES = 32 << 20
_NUM_MEASURED = 16  # of them for SQNR: a sum over all values of a tensor settles quickly


def quantize(  # noqa: PLR0913  # one argument an option
    model: nn.Module | ExportedProgram,
    calibration: Any,
    recipe: str | Path | Recipe = "int8",
    *,
    seed: int = 0,
    samples: int | None = 512,
    statistics: str | Path | Statistics | None = None,
    validation: Any = None,
    teacher: Teacher | Sequence[Teacher] | None = None,
    progress: Progress | None = None,
    tell: Tell | None = None,
    checkpoint: str | Path | None = None,
    resume: bool = False,
) -> Result:
    """A quantized copy of ``model``, which is left as it was.

    calibration: inputs like those the network will meet, with or without labels: a tensor [N, ...], a ``DataLoader``, a ``Dataset``, or
    anything else `halfstep.data.as_data` takes. Only a recipe that trains uses all of them, and the labels. recipe: a shipped name, a YAML
    file or a `Recipe`. samples: how many inputs to calibrate on (None: all). statistics: those of an earlier run on the same network (its
    directory, or the object) instead of a pass over the data. validation: labelled data to watch a training on. teacher: a trained network
    with the same inputs and classes, usually a larger one, whose answers a training learns in place of those of ``model``, or several,
    whose mean is learned. progress: called with (phase, done, total or None) as the run goes on. tell: called with lines of news.
    checkpoint: a folder in which long steps keep what they have finished. `Result.save` removes it; who does not save the result calls
    ``result.checkpoint.clear()`` once it is of no more use. Until then no other process may use the folder. resume: go on with what an
    interrupted run of the same call left there, to the same bytes.

    Raises `ModelError`, `DataError`, `RecipeError`, `CalibrationError` or `TrainingError`.
    """
    stopwatch = Stopwatch()
    begun = begin(model, calibration, recipe, stopwatch, seed, samples, statistics, progress)
    begun.watch(tell, validation)
    begun.teach(teacher)
    with begun.keeping(checkpoint, resume):
        return begun.finish(run_steps(begun.graph, begun.recipe.build_steps(), begun.context, stopwatch), stopwatch)


@dataclass
class Begun:
    """A run before its steps. graph: captured, or quantized by an earlier run. kept: the inputs that go into the result. size: bytes of the
    float network. name: of the user's model. samples: how many inputs are calibrated on. fresh: inputs that are not, where there are any.
    """

    graph: GraphModule
    recipe: Recipe
    context: Context
    kept: tuple[Tensor, ...]
    size: int
    name: str
    samples: int | None
    fresh: tuple[Tensor, ...] = ()

    def watch(self, tell: Tell | None, validation: Any) -> None:
        """Tell the news of a training, with its accuracy on ``validation`` where there is one."""
        self.context.tell = tell or self.context.tell
        if validation is None:
            return
        data = prepare(validation, self.recipe.preprocessing)
        self.fresh = _joined(data.batches(BATCH_SIZE, _NUM_FRESH), _NUM_FRESH)
        self.context.validation = None if data.has_labels is False else data

    def teach(self, teacher: Teacher | Sequence[Teacher] | None) -> None:
        """Let a training learn the answers of other networks."""
        if teacher is None:
            return
        models = [teacher] if isinstance(teacher, Teacher) else teacher
        self.context.teachers = capture_teachers(models, self.graph, self.kept)
        names = [type(model).__name__ for model in models]
        whose = "those of another network, a" if len(names) == 1 else "the mean of several networks, of the types"
        self.context.notes.append(f"The answers to learn were {whose} {', '.join(names)}.")

    @contextmanager
    def keeping(self, folder: str | Path | None, resume: bool) -> Iterator[None]:
        """Give long steps a place for what they have finished. Learning rates may change when a run is continued.

        Where the block ends well the result goes on holding the folder.
        """
        if folder is None:
            yield
            return
        key: dict[str, object] = {
            "network": self.context.statistics.fingerprint,
            "recipe": self.recipe.to_yaml(without=("learning_rate", "scale_learning_rate")),
            "seed": self.context.generator.initial_seed(),
            "number of samples": self.samples,
            "data": _digest(self.kept),
            "teacher": [fingerprint(teacher) for teacher in self.context.teachers],
        }
        checkpoint = self.context.checkpoint = Checkpoint.start(Path(folder), key, resume)
        try:
            yield
        except BaseException:
            checkpoint.release()
            raise

    def finish(self, outcome: Outcome, stopwatch: Stopwatch) -> Result:
        """The result, measured."""
        context = self.context
        with stopwatch.phase("measure"), parallel.steady():
            context.progress("measure", 0, None)
            few = tuple(x[:_NUM_MEASURED] for x in self.kept)
            layers, figures = describe_layers(outcome.reference, outcome.graph, context.statistics, few)
            quality = measure_quality(outcome.reference, outcome.graph, self.fresh or self.kept, bool(self.fresh))
            if quality is not None and is_poor(quality):
                context.notes.append(way_out(quality, layer_costs(outcome.reference, outcome.graph, few), self.recipe.name))
        context.notes.extend(poor_layers(layers))
        record = RunRecord(
            model=self.name,
            recipe=self.recipe.name,
            seed=context.generator.initial_seed(),
            num_calibration_samples=context.statistics.num_samples,
            bytes={"float": self.size, "quantized": num_bytes(outcome.graph), "onnx": None},
            seconds=stopwatch.total(),
            peak_rss_bytes=peak_rss_bytes(),
            versions=versions(),
            machine=machine(),
            notes=tuple(context.notes),
            float_operators=float_operators(outcome.graph),
            layers=layers,
            float_check=_float_check(context.witness),
            quality=quality,
        )
        return Result(
            outcome.graph, outcome.reference, self.recipe, context.statistics, self.kept, record, figures, checkpoint=context.checkpoint
        )


@parallel.steady()
def begin(
    model: nn.Module | ExportedProgram,
    calibration: Any,
    recipe: str | Path | Recipe,
    stopwatch: Stopwatch,
    seed: int,
    samples: int | None,
    statistics: str | Path | Statistics | None = None,
    progress: Progress | None = None,
) -> Begun:
    """Read the data and capture the network; the arguments of `quantize`."""
    report = progress or _silent
    chosen = recipe if isinstance(recipe, Recipe) else Recipe.load(recipe)
    data = prepare(calibration, chosen.preprocessing)
    if chosen.preprocessing is None and data.preprocessing is not None:
        chosen = chosen.with_preprocessing(data.preprocessing)
    with stopwatch.phase("data"):
        kept = _kept_samples(data, samples, seed)
    with stopwatch.phase("capture"):
        report("capture", 0, None)
        graph = capture(model, kept)
        check_inputs(graph, kept)
        size = float_bytes(graph)
        gathered = _statistics(statistics, graph)
    context = make_context(chosen, data, gathered, seed, samples, report)
    context.witness = graph.meta.pop("witness")
    context.notes.extend(graph.meta["notes"])
    is_trained = any(isinstance(step, Finetune) for step in chosen.build_steps())  # on all of the data
    fresh = () if is_trained else _joined(data.others(_NUM_FRESH, samples, seed), _NUM_FRESH)
    return Begun(graph, chosen, context, kept, size, type(model).__name__, samples, fresh)


def make_context(recipe: Recipe, data: Data, statistics: Statistics, seed: int, samples: int | None, progress: Progress | None) -> Context:
    """What the steps of a run on ``data`` share."""
    return Context(
        recipe.scheme,
        statistics,
        torch.Generator().manual_seed(seed),
        batches=lambda: _inputs(data, samples, seed),
        num_samples=data.num_samples if samples is None else min(samples, data.num_samples or samples),
        progress=progress or _silent,
        training=data,
    )


def _float_check(witness: Witness | None) -> FloatCheck | None:
    """For the report; None where the run began with a quantized network."""
    return None if witness is None else FloatCheck(witness.difference, dict(witness.changes), len(witness.inputs[0]))


def _silent(phase: str, done: float, total: int | None) -> None:
    """No progress to show."""


def _inputs(data: Data, samples: int | None, seed: int) -> Iterator[tuple[Tensor, ...]]:
    return (batch.inputs for batch in data.batches(BATCH_SIZE, samples, seed))


def _kept_samples(data: Data, samples: int | None, seed: int) -> tuple[Tensor, ...]:
    """The first few calibration inputs."""
    return _joined(data.batches(BATCH_SIZE, samples, seed), _NUM_KEPT)


def _joined(batches: Iterable[Batch], count: int) -> tuple[Tensor, ...]:
    """The first ``count`` inputs, within a bound on memory; none of no batches."""
    held: list[tuple[Tensor, ...]] = []
    for batch in batches:
        held.append(batch.inputs)
        num_held = sum(len(part[0]) for part in held)
        num_bytes_held = sum(x.numel() * x.element_size() for part in held for x in part)
        if num_held >= count or num_bytes_held >= _KEPT_BYTES:
            break
    return tuple(torch.cat(parts)[:count].clone() for parts in zip(*held, strict=True))


def _digest(inputs: tuple[Tensor, ...]) -> str:
    """A hash of some calibration inputs."""
    digest = hashlib.sha256()
    for x in inputs:
        digest.update(x.contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:16]


def _statistics(given: str | Path | Statistics | None, graph: GraphModule) -> Statistics:
    """The statistics to start from: empty, or those of an earlier run if they belong to this network."""
    own = fingerprint(graph)
    if given is None:
        return Statistics(own)
    if not isinstance(given, Statistics):
        path = Path(given)
        given = Statistics.load(path / STATISTICS_FILE if path.is_dir() else path)
    if given.fingerprint != own:
        raise CalibrationError(
            "These statistics belong to another network (or to other weights of this one): leave --statistics out to gather new ones."
        )
    return given
