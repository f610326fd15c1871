"""Run the steps of a recipe: give each the statistics it asked for, check what it promised, measure what it cost."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from torch import Tensor
from torch.fx import GraphModule

from halfstep.errors import CalibrationError, GraphError
from halfstep.graph.check import check
from halfstep.graph.serialize import duplicate
from halfstep.graph.statistics import Statistics, collect
from halfstep.steps.abstract import AbstractStep, Context
from halfstep.stopwatch import Stopwatch

Batches = Callable[[], Iterable[tuple[Tensor, ...]]]
Progress = Callable[[str, int, int | None], None]


@dataclass(frozen=True)
class Outcome:
    """graph: the network after the last step. reference: the float network that was calibrated, node by node under the same names."""

    graph: GraphModule
    reference: GraphModule


def run_steps(
    graph: GraphModule,
    steps: Sequence[AbstractStep],
    context: Context,
    batches: Batches,
    num_samples: int | None,
    progress: Progress,
    stopwatch: Stopwatch,
) -> Outcome:
    """Apply ``steps`` in order to ``graph``, which is changed; ``batches()`` starts a pass over the calibration data."""
    reference = None
    for position, step in enumerate(steps):
        needed = step.needs(graph)
        if needed:
            # What later steps can already say they need is gathered in the same pass.
            needed = needed.union(*(later.needs(graph) for later in steps[position + 1 :]))
            reference = reference or duplicate(graph)
        missing = needed - set(context.statistics.histograms)
        if missing:
            with stopwatch.phase("statistics"):
                _gather(graph, missing, context.statistics, batches, num_samples, progress)
        with stopwatch.phase(step.name):
            progress(step.name, 0, None)
            graph = step.apply(graph, context)
            check(graph)
            step.ensures(graph)
    return Outcome(graph, reference or duplicate(graph))


def _gather(
    graph: GraphModule, names: set[str], statistics: Statistics, batches: Batches, num_samples: int | None, progress: Progress
) -> None:
    nodes = {node for node in graph.graph.nodes if node.meta["name"] in names}
    if len(nodes) < len(names):
        missing = sorted(names - {str(node.meta["name"]) for node in nodes})
        raise GraphError(f"A step needs statistics of tensors that the graph does not have: {', '.join(missing)}.")
    for seen in collect(graph, nodes, batches(), statistics):
        progress("statistics", seen, num_samples)
    if statistics.num_samples == 0:
        raise CalibrationError("The calibration data are empty: give at least one batch of inputs.")
