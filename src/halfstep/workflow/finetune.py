"""Quantization-aware training from the outside: in one call, or as a module for a training loop of one's own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, final

from torch import nn
from torch.export import ExportedProgram

from halfstep.errors import RecipeError
from halfstep.graph.serialize import duplicate
from halfstep.recipes import Recipe
from halfstep.steps.abstract import Progress, Tell
from halfstep.steps.finetune import Finetune
from halfstep.steps.pipeline import Outcome, run_steps
from halfstep.steps.training.write_back import write_back
from halfstep.stopwatch import Stopwatch
from halfstep.workflow.evaluate import prepare as prepare_data
from halfstep.workflow.quantize import Begun, begin, make_context, quantize
from halfstep.workflow.result import Result
from halfstep.workflow.teacher import Teacher


def finetune(  # noqa: PLR0913  # one argument an option
    model: nn.Module | ExportedProgram | Result,
    data: Any,
    recipe: str | Path | Recipe = "lsq-w4a4",
    *,
    validation: Any = None,
    teacher: Teacher | Sequence[Teacher] | None = None,
    epochs: float | None = None,
    options: Mapping[str, Any] | None = None,
    seed: int = 0,
    samples: int | None = 512,
    progress: Progress | None = None,
    tell: Tell | None = None,
    checkpoint: str | Path | None = None,
    resume: bool = False,
) -> Result:
    """A quantized copy of ``model`` that was trained with quantization in the loop.

    model: a trained float network, which is quantized by the steps of the recipe before it is trained, or the result of an earlier run,
    which is trained as it is: then only the recipe's step `finetune` counts. data: what to train on, in any form `halfstep.data.as_data`
    takes; labels are used where the step asks for them. epochs, options: of that step, in place of the recipe's. samples: how many of the
    inputs to calibrate on. The other arguments are those of `quantize`.
    """
    chosen = recipe if isinstance(recipe, Recipe) else Recipe.load(recipe)
    chosen = chosen.with_step(Finetune.name, dict(options or {}) | ({} if epochs is None else {"epochs": epochs}))
    if not isinstance(model, Result):
        return quantize(
            model, data, chosen, seed=seed, samples=samples, validation=validation, teacher=teacher, progress=progress,
            tell=tell, checkpoint=checkpoint, resume=resume,
        )  # fmt: skip
    stopwatch = Stopwatch()
    begun = _begin_from(model, data, chosen, seed, samples, progress)
    begun.watch(tell, validation)
    begun.teach(teacher)
    with begun.keeping(checkpoint, resume):
        return begun.finish(run_steps(begun.graph, [_step(chosen)], begun.context, stopwatch), stopwatch)


@final
class Prepared(nn.Module):
    """A quantized network to train like any other module: in ``train()`` and ``eval()`` mode, on any device, with any loss and optimizer.

    Scales and gains are logarithms: give `scale_parameters` to an Adam of their own. `result` makes a `Result` of it.
    """

    def __init__(self, step: Finetune, begun: Begun) -> None:
        super().__init__()
        self.trainable = step.prepared(begun.graph, begun.context)
        self._step, self._begun = step, begun

    def forward(self, *inputs: Any) -> Any:
        """What the user's model returns."""
        return self.trainable(*inputs)

    def weight_parameters(self) -> list[nn.Parameter]:
        """Weights, biases and the shifts of batch norms."""
        learned = {id(p) for p in self.scale_parameters()}
        return [p for p in self.parameters() if id(p) not in learned]

    def scale_parameters(self) -> list[nn.Parameter]:
        """What quantizers learn, and the gains of batch norms."""
        return self.trainable.scale_parameters()

    def result(self) -> Result:
        """The network as it stands, on fixed grids: to be saved, exported, lowered and reported. Training may go on afterwards."""
        begun = self._begun
        was_training = self.training
        device = next(self.parameters()).device
        trainable = self.trainable.to("cpu")
        trainable.reestimate(self._step.plain_batches(begun.context))
        graph = duplicate(begun.graph)
        write_back(trainable, graph)
        self.to(device).train(was_training)
        assert begun.context.reference is not None
        return begun.finish(Outcome(graph, begun.context.reference), Stopwatch())


def prepare(
    model: nn.Module | ExportedProgram | Result,
    data: Any,
    recipe: str | Path | Recipe = "lsq-w4a4",
    *,
    seed: int = 0,
    samples: int | None = 512,
    progress: Progress | None = None,
) -> Prepared:
    """What `finetune` would train, as a module for a loop of one's own; the arguments are its."""
    chosen = recipe if isinstance(recipe, Recipe) else Recipe.load(recipe)
    if isinstance(model, Result):
        begun = _begin_from(model, data, chosen, seed, samples, progress)
    else:
        stopwatch = Stopwatch()
        begun = begin(model, data, chosen, stopwatch, seed, samples, None, progress)
        outcome = run_steps(begun.graph, chosen.until(Finetune.name).build_steps(), begun.context, stopwatch)
        begun.graph, begun.context.reference = outcome.graph, outcome.reference
    return Prepared(_step(chosen), begun)


def _begin_from(result: Result, data: Any, recipe: Recipe, seed: int, samples: int | None, progress: Progress | None) -> Begun:
    """A run that starts from what another one left."""
    step = _step(recipe)
    extended = result.recipe.model_copy(update={"name": recipe.name, "steps": (*result.recipe.steps, step.spec())})
    prepared = prepare_data(data, extended.preprocessing)
    context = make_context(extended, prepared, result.statistics, seed, samples, progress)
    context.reference = result.float_model
    context.notes.extend(result.record.notes)
    size, name = result.record.bytes["float"], result.record.model
    assert size is not None
    return Begun(duplicate(result.model), extended, context, result.samples, size, name, samples)


def _step(recipe: Recipe) -> Finetune:
    """The recipe's step `finetune`."""
    found = next((step for step in recipe.build_steps() if isinstance(step, Finetune)), None)
    if found is None:
        raise RecipeError(f"The recipe '{recipe.name}' has no step '{Finetune.name}': choose one that has, such as lsq-w4a4.")
    return found
