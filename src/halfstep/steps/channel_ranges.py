"""The smallest and the largest value of every channel, over the first calibration inputs."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import partial

import torch
from torch import Tensor
from torch.fx import GraphModule, Node

from halfstep import parallel
from halfstep.errors import CalibrationError
from halfstep.graph.channels import channel_rows
from halfstep.graph.run import broken_at, cut, observe
from halfstep.steps.abstract import Context


def first_inputs(context: Context, num_samples: int, step: str) -> Iterator[tuple[Tensor, ...]]:
    """The first calibration inputs, as they come, for the step of that name."""
    num_left = num_samples
    for inputs in context.batches():
        yield tuple(x[:num_left] for x in inputs)
        context.progress(step, num_samples - num_left, num_samples)
        num_left -= len(inputs[0])
        if num_left <= 0:
            return
    if num_left == num_samples:
        raise CalibrationError("The calibration data are empty: give at least one batch of inputs.")


def channel_ranges(graph: GraphModule, axes: dict[Node, int], batches: Iterable[tuple[Tensor, ...]]) -> dict[Node, tuple[Tensor, Tensor]]:
    """(minimum, maximum) [C] along its axis of each tensor, float64."""
    found: dict[Node, tuple[Tensor, Tensor]] = {}
    for ranges in parallel.each(partial(_seen, graph, axes), batches):
        _widen(found, ranges)
    return found


def _seen(graph: GraphModule, axes: dict[Node, int], inputs: tuple[Tensor, ...]) -> dict[Node, tuple[Tensor, Tensor]]:
    """Of one batch."""
    found: dict[Node, tuple[Tensor, Tensor]] = {}

    def see(node: Node, x: Tensor) -> Tensor:
        low, high = (end.double() for end in torch.aminmax(channel_rows(x, axes[node]), dim=0))
        if not bool(torch.isfinite(low).all() and torch.isfinite(high).all()):
            raise broken_at(node)
        _widen(found, {node: (low, high)})
        return x

    for part, _ in cut(graph, inputs):  # what fills a batch up repeats a sample
        observe(graph, part, set(axes), see)
    return found


def _widen(found: dict[Node, tuple[Tensor, Tensor]], further: dict[Node, tuple[Tensor, Tensor]]) -> None:
    for node, (low, high) in further.items():
        seen = found.get(node, (low, high))
        found[node] = torch.minimum(seen[0], low), torch.maximum(seen[1], high)
