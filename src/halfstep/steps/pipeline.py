"""Run the steps of a recipe: give each the statistics it asked for, check what it promised, measure what it cost."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch.fx import GraphModule

from halfstep.errors import CalibrationError, GraphError
from halfstep.graph.check import check
from halfstep.graph.serialize import duplicate
from halfstep.graph.statistics import collect
from halfstep.steps.abstract import AbstractStep, Context
from halfstep.stopwatch import Stopwatch


@dataclass(frozen=True)
class Outcome:
    """graph: the network after the last step. reference: the float network that was calibrated, node by node under the same names."""

    graph: GraphModule
    reference: GraphModule


def run_steps(graph: GraphModule, steps: Sequence[AbstractStep], context: Context, stopwatch: Stopwatch) -> Outcome:
    """Apply ``steps`` in order to ``graph``, which is changed."""
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
            with stopwatch.phase("statistics"):
                _gather(graph, missing, context)
        with stopwatch.phase(step.name):
            context.progress(step.name, 0, None)
            graph = step.apply(graph, context)
            check(graph)
            step.ensures(graph)
    return Outcome(graph, context.reference or duplicate(graph))


def _gather(graph: GraphModule, names: set[str], context: Context) -> None:
    nodes = {node for node in graph.graph.nodes if node.meta["name"] in names}
    if len(nodes) < len(names):
        missing = sorted(names - {str(node.meta["name"]) for node in nodes})
        raise GraphError(f"A step needs statistics of tensors that the graph does not have: {', '.join(missing)}.")
    for seen in collect(graph, nodes, context.batches(), context.statistics):
        context.progress("statistics", seen, context.num_samples)
    if context.statistics.num_samples == 0:
        raise CalibrationError("The calibration data are empty: give at least one batch of inputs.")
