"""A table of networks that were trained with quantization in the loop: each as simulated, and as integers alone.

Every row is a shipped recipe. Its integer program is run on the same images as the simulation: the two accuracies are those of the
same network twice, and what they differ by is rounding of the rescales alone.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, ClassVar

from halfstep.studies.abstract import AbstractStudy
from halfstep.studies.laboratory import Laboratory, Progress
from halfstep.studies.outcome import Entry, Outcome, Row, order_sentences
from halfstep.studies.settings import Published, Settings, TrainedCell
from halfstep.workflow.evaluate import evaluate
from halfstep.workflow.lower import lower
from halfstep.workflow.result import Result

SIMULATED, INTEGERS, PARAMETERS, MEMORY, EPOCHS, SECONDS = "simulated", "integers", "parameters", "weights, kB", "epochs", "CPU s"
FLOAT = "float"


class AbstractTrainedTable(AbstractStudy):
    """recipes: of the rows, by what the rows are called."""

    is_trained: ClassVar[bool] = True
    recipes: ClassVar[Mapping[str, str]]

    @abstractmethod
    def published(self, network: str) -> Mapping[str, float]:
        """What the paper found, by row, where it has a network like this one."""

    def spent(self, settings: Settings) -> str:
        """How long each row trains."""
        return f"{settings.num_epochs:g} epoch{'s' if settings.num_epochs > 1 else ''} of training for each row"

    def run(self, laboratory: Laboratory) -> Outcome:
        """Every row, each kept as soon as it is finished."""
        published, rows = self.published(laboratory.network), [_float_row(laboratory)]
        for done, (label, name) in enumerate(self.recipes.items()):
            laboratory.progress(self.name, done, len(self.recipes))
            cell = TrainedCell(name, laboratory.settings.num_epochs)
            part = _part(laboratory.progress, self.name, done, len(self.recipes))
            found = laboratory.look("simulation and integers", lambda result, seconds: _seen(result, seconds, laboratory), cell, 0, part)
            entries = {column: Entry((found[column],)) for column in (SIMULATED, INTEGERS, PARAMETERS, MEMORY)}
            entries |= {EPOCHS: Entry((cell.num_epochs,)), SECONDS: Entry((found[SECONDS],))}
            if label in published:
                entries[INTEGERS] = replace(entries[INTEGERS], published=Published(published[label]))
            rows.append(Row(label, entries))
        laboratory.progress(self.name, len(self.recipes), len(self.recipes))
        outcome = self.outcome(laboratory, (SIMULATED, INTEGERS, PARAMETERS, MEMORY, EPOCHS, SECONDS), tuple(rows))
        outcome = replace(outcome, decimals={PARAMETERS: 0, MEMORY: 0, SECONDS: 0})
        return replace(outcome, verdict=(_difference(outcome), *order_sentences(outcome)))


def _float_row(laboratory: Laboratory) -> Row:
    count = float(sum(parameter.numel() for parameter in laboratory.subject.model.parameters()))
    found = {SIMULATED: laboratory.float_top1, PARAMETERS: count, MEMORY: 4 * count / 1000}
    return Row(FLOAT, {column: Entry((value,)) for column, value in found.items()})


def _seen(result: Result, seconds: float, laboratory: Laboratory) -> dict[str, Any]:
    """Parameters: those of the integer program, batch norms folded."""
    program = lower(result)
    validation = laboratory.subject.validation
    return {
        SIMULATED: evaluate(result, validation),
        INTEGERS: evaluate(program, validation),
        PARAMETERS: float(sum(parameter.numel() for parameter in result.float_model.parameters())),
        MEMORY: program.num_weight_bytes / 1000,
        SECONDS: seconds,
    }


def _part(progress: Progress, study: str, done: int, total: int) -> Progress:
    """What the training says about its steps, as a part of one row."""

    def tell(phase: str, part: float, of: int | None) -> None:
        if phase == "finetune" and of:
            progress(study, done + min(part / of, 1.0), total)

    return tell


def _difference(outcome: Outcome) -> str:
    apart = max(abs((row.entries[SIMULATED].mean or 0) - (row.entries[INTEGERS].mean or 0)) for row in outcome.rows if row.label != FLOAT)
    return f"Simulation and integers differ by {apart:.2f} points at most."
