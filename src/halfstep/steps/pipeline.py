"""Run the steps of a recipe: give each the statistics it asked for, check what it promised, measure what it cost.

Until the first step that quantizes, the graph must compute what the network as given computes (`graph.witness`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch.fx import GraphModule

from halfstep import parallel
from halfstep.errors import CalibrationError, GraphError, memory_errors
from halfstep.graph.check import check
from halfstep.graph.serialize import duplicate
from halfstep.graph.statistics import collect
from halfstep.graph.witness import Witness
from halfstep.steps.abstract import AbstractStep, Context
from halfstep.stopwatch import Stopwatch


@dataclass(frozen=True)
class Outcome:
    """graph: the network after the last step. reference: the float network that was calibrated, node by node under the same names."""

    graph: GraphModule
    reference: GraphModule


_FEWER = "Take fewer samples (--samples, samples=), or smaller inputs."


@parallel.steady()
def run_steps(graph: GraphModule, steps: Sequence[AbstractStep], context: Context, stopwatch: Stopwatch) -> Outcome:
    """Apply ``steps`` in order to ``graph``, which is changed; to the same bytes on any number of threads, but for steps that learn.

    `GraphError` where a step breaks what it promises.
    """
    is_float = True
    for position, step in enumerate(steps):
        context.position = position
        needed = step.needs(graph)
        if needed:
            # What later steps can already say they need is gathered in the same pass.
            needed = needed.union(*(later.needs(graph) for later in steps[position + 1 :]))
        if (needed or step.quantizes) and context.reference is None:
            context.reference = duplicate(graph)
        if needed:
            assert context.reference is not None
            context.statistics.take_for(context.reference)
        missing = needed - set(context.statistics.histograms)
        if missing:
            with stopwatch.phase("statistics"), memory_errors(f"the statistics of step '{step.name}'", _FEWER):
                _gather(graph, missing, context)
        with stopwatch.phase(step.name), memory_errors(f"step '{step.name}'", _less_memory(step)):
            context.progress(step.name, 0, None)
            graph = step.apply(graph, context)
            check(graph)
            step.ensures(graph)
        is_float = is_float and not step.quantizes
        if is_float and context.witness is not None:
            with stopwatch.phase("compare"):
                _compare(context.witness, graph, step)
    return Outcome(graph, context.reference or duplicate(graph))


def _compare(witness: Witness, graph: GraphModule, step: AbstractStep) -> None:
    found = witness.hold(graph, step.name, step.is_exact)
    if found is not None:
        raise GraphError(
            f"The step '{step.name}' changed what the float network computes: {found}. This is a defect of halfstep: please report it. "
            "Until it is mended leave the step out of the recipe, or exclude the layers there."
        )


def _less_memory(step: AbstractStep) -> str:
    """What to change for this step to need less."""
    options = {name: getattr(step, name) for name in ("memory", "batch_size") if hasattr(step, name)}
    lower = [
        f"Lower its option {name} in the recipe (now {value:g}{' GB' if name == 'memory' else ''})." for name, value in options.items()
    ]
    return " ".join([*lower, _FEWER])


def _gather(graph: GraphModule, names: set[str], context: Context) -> None:
    nodes = {node for node in graph.graph.nodes if node.meta["name"] in names}
    if len(nodes) < len(names):
        missing = sorted(names - {str(node.meta["name"]) for node in nodes})
        raise GraphError(f"A step needs statistics of tensors that the graph does not have: {', '.join(missing)}.")
    for seen in collect(graph, nodes, context.batches(), context.statistics):
        context.progress("statistics", seen, context.num_samples)
    if context.statistics.num_samples == 0:
        raise CalibrationError("The calibration data are empty: give at least one batch of inputs.")
