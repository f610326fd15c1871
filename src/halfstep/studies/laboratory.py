"""Where studies are measured: one network, its images, and a folder that keeps every finished run.

A run is one setting with one seed. What a run depends on (weights, recipe, seed, images) is its key: two studies that share a row share its
runs, and an interrupted study goes on where it stopped.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils import _pytree as pytree

from halfstep.data import Data
from halfstep.errors import DataError, RecipeError
from halfstep.files import atomic_path
from halfstep.report.environment import versions
from halfstep.steps.abstract import Tell
from halfstep.studies.costs import FirstLayerCosts
from halfstep.studies.settings import AnyCell, Cell, Settings
from halfstep.studies.subject import Subject
from halfstep.workflow.evaluate import evaluate, top1
from halfstep.workflow.quantize import quantize
from halfstep.workflow.result import Result

Progress = Callable[[str, float, int | None], None]
Look = Callable[[Result, float], dict[str, Any]]
"""From a quantized network and the CPU seconds it took to the plain values that are kept of it."""


@dataclass(frozen=True)
class Measurement:
    """One run. top1: percent. loss: the mean cross-entropy. cpu_seconds: of quantizing. task_cost, local_cost: (13) and (20) of the first
    layer, where they were asked for. reason: why the run could not be made; the figures are then 0.
    """

    top1: float = 0.0
    loss: float = 0.0
    cpu_seconds: float = 0.0
    task_cost: float | None = None
    local_cost: float | None = None
    reason: str | None = None


class Laboratory:
    """subject: the network and its images. folder: where runs are kept (None: nowhere). resume: whether those already there count.

    progress: called with (study, runs done, runs in all). tell: called with a line of news of a run that trains.
    """

    def __init__(
        self,
        subject: Subject,
        settings: Settings,
        folder: Path | None = None,
        resume: bool = False,
        progress: Progress | None = None,
        tell: Tell | None = None,
    ) -> None:
        self.subject, self.settings = subject, settings
        self._folder, self._resume, self.progress, self._tell = folder, resume, progress or _silent, tell
        self._done: dict[str, dict[str, Any]] = {}
        if folder is not None:
            folder.mkdir(parents=True, exist_ok=True)

    @property
    def network(self) -> str:
        """The network's name."""
        return self.subject.name

    @property
    def num_images(self) -> int:
        """Labelled images that accuracy is measured on."""
        return self._float[1]

    @property
    def float_top1(self) -> float:
        """Of the network itself."""
        return self._float[0]

    @property
    def versions(self) -> dict[str, str]:
        """Of halfstep and what it stands on."""
        return dict(versions())

    def measure(self, study: str, cells: Sequence[Cell]) -> list[list[Measurement]]:
        """All runs of every cell, in the order of the cells and then of the seeds."""
        plan = [(index, seed) for index, cell in enumerate(cells) for seed in range(self._num_seeds(cell))]
        found: list[list[Measurement]] = [[] for _ in cells]
        for done, (index, seed) in enumerate(plan):
            self.progress(study, done, len(plan))
            found[index].append(self.run(cells[index], seed, _within(self.progress, study, done, len(plan))))
        self.progress(study, len(plan), len(plan))
        return found

    def run(self, cell: Cell, seed: int = 0, progress: Progress | None = None) -> Measurement:
        """The accuracy of one run, with the costs of its first layer where the cell asks for them."""
        look = self._accuracy_and_costs if cell.with_costs else self._accuracy
        try:
            return Measurement(**self.look("accuracy and costs" if cell.with_costs else "accuracy", look, cell, seed, progress))
        except RecipeError as error:  # an optional package is missing, or this layer is too large for this method
            return Measurement(reason=str(error))

    def look(self, what: str, look: Look, cell: AnyCell, seed: int = 0, progress: Progress | None = None) -> dict[str, Any]:
        """What ``look`` sees in one quantized network, or what it saw before under the name ``what``; plain values, as JSON holds them."""
        key = {"what": what, **self._key(cell, seed)}
        name = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:20]
        if name not in self._done:
            self._done[name] = self._read(name, key) or self._new(name, key, look, cell, seed, progress)
        return self._done[name]

    def has_other_images(self) -> bool:
        """Whether there is another data set to calibrate on."""
        return self.subject.other is not None

    def _num_seeds(self, cell: Cell) -> int:
        return (cell.num_seeds or self.settings.num_seeds) if cell.is_random else 1

    def _calibration(self, cell: AnyCell) -> Data:
        if not cell.is_other:
            return self.subject.calibration
        if self.subject.other is None:
            raise DataError("There is no other data set to calibrate on: give one with --other.")
        return self.subject.other

    def _new(self, name: str, key: dict[str, Any], look: Look, cell: AnyCell, seed: int, progress: Progress | None) -> dict[str, Any]:
        """A run that was not made before; it is written at once."""
        started = time.process_time()
        checkpoint = None if self._folder is None else self._folder / f"{name}.checkpoint"
        result = self._quantized(cell, seed, progress, checkpoint)
        found = look(result, time.process_time() - started)
        if self._folder is not None:
            with atomic_path(self._folder / f"{name}.json") as temporary:
                temporary.write_text(json.dumps({"key": key, "found": found}, indent=1) + "\n", encoding="utf-8")
        if result.checkpoint is not None:
            result.checkpoint.clear()
        return found

    def _read(self, name: str, key: dict[str, Any]) -> dict[str, Any] | None:
        """What an earlier call wrote; None where there is nothing, or not this run."""
        path = None if self._folder is None else self._folder / f"{name}.json"
        if path is None or not self._resume or not path.is_file():
            return None
        try:
            stored = json.loads(path.read_text(encoding="utf-8"))
        except ValueError:
            return None
        found: dict[str, Any] = stored["found"]
        return found if stored["key"] == key else None

    def _quantized(self, cell: AnyCell, seed: int, progress: Progress | None = None, checkpoint: Path | None = None) -> Result:
        return quantize(
            self.subject.model,
            self._calibration(cell),
            cell.recipe(self.settings.bits),
            seed=seed,
            samples=cell.num_samples or self.settings.num_samples,
            progress=progress,
            tell=self._tell,
            checkpoint=checkpoint,
            resume=self._resume,
        )

    def _accuracy(self, result: Result, seconds: float) -> dict[str, Any]:
        score = _Score()
        return {"top1": evaluate(result, self.subject.validation, score), "loss": score.loss, "cpu_seconds": seconds}

    def _accuracy_and_costs(self, result: Result, seconds: float) -> dict[str, Any]:
        task_cost, local_cost = self._costs.of(result.model)
        return {**self._accuracy(result, seconds), "task_cost": task_cost, "local_cost": local_cost}

    def _key(self, cell: AnyCell, seed: int) -> dict[str, Any]:
        """Everything the run depends on but the version of halfstep."""
        return {
            "weights": self._digest,
            "recipe": cell.recipe(self.settings.bits).to_yaml(),
            "seed": seed,
            "num_samples": cell.num_samples or self.settings.num_samples,
            "calibration": _name(self._calibration(cell)),
            "validation": _name(self.subject.validation),
        }

    @cached_property
    def _digest(self) -> str:
        digest = hashlib.sha256()
        for name, tensor in self.subject.model.state_dict().items():
            digest.update(name.encode() + tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
        return digest.hexdigest()[:20]

    @cached_property
    def _float(self) -> tuple[float, int]:
        """Accuracy of the float network, and on how many images."""
        score = _Score()
        return evaluate(self.subject.model, self.subject.validation, score), score.count

    @cached_property
    def _costs(self) -> FirstLayerCosts:
        """On the images of seed 0: the same measure for all roundings."""
        model = self._quantized(Cell("nearest", only_first=True), seed=0).float_model
        batches = self.subject.calibration.batches(_BATCH, self.settings.num_samples)
        return FirstLayerCosts.gather(model, [batch.inputs for batch in batches])


_BATCH = 32


class _Score:
    """Top-1 as a metric of `evaluate`, which adds up the cross-entropy on the way. loss: its mean so far; count: over how many images."""

    def __init__(self) -> None:
        self._total, self.count = 0.0, 0

    @property
    def loss(self) -> float:
        return self._total / self.count

    def __call__(self, outputs: Any, labels: Tensor) -> Tensor:
        logits = next(leaf for leaf in pytree.tree_leaves(outputs) if isinstance(leaf, Tensor))
        self._total += float(F.cross_entropy(logits.double(), labels, reduction="sum"))
        self.count += len(labels)
        return top1(outputs, labels)


def _name(data: Data) -> str:
    """A name that stays the same wherever the files lie."""
    return f"{data.name.rpartition('/')[2]} ({data.num_samples}), {data.preprocessing!r}"


def _within(progress: Progress, study: str, done: int, total: int) -> Progress:
    """What a run says about its layers, as a part of one run of the study."""
    layers: list[int] = []

    def tell(phase: str, part: float, of: int | None) -> None:
        if phase == "round":
            layers.extend([] if of is None else [of])
            if layers:
                progress(study, done + min(part / max(layers[-1], 1), 1.0), total)

    return tell


def _silent(study: str, done: float, total: int | None) -> None:
    """No progress to show."""
