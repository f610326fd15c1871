"""Split channels: those whose rounding the outputs feel most are given several times, and rounded a fraction of a step apart.

    x_i -> x_i + t_1, ..., x_i + t_k        t_j = (2 j - 1 - k) s / 2k        w x_i  =  sum over j of  (w / k) (x_i + t_j)

x_i: channel i of a tensor between layers. w: the weights of the layers that read it. s: the step of the tensor's grid. Since

    sum over j of  round(x / s + t_j / s)  =  round(k x / s)                                                         (Hermite's identity)

k copies together lie on a grid of step s / k, and the noise of the channel falls to 1 / k². Further copies go to where they take most noise
from the outputs (h, `graph/output_slopes`) for their work, until the budget is spent:

    argmin over k of   sum over channels i   s_i² / 12  h_i / k_i²        work(k) <= (1 + budget) work(1)

work: multiply-accumulates, and a fixed number of them for each output that a layer writes. The rows that write copies differ in their bias
alone: it is a network as before, a little wider, and `graph/copies.py` rewrites it. As in `split_outliers`, s is what the range estimator
``range`` finds; `calibrate` has to use the same, or the copies are not evenly apart.

Zhao et al. 2019, "Improving neural network quantization without retraining using outlier channel splitting", sections 3.2 and 3.3, split
channels of activations by the same identity, to halve the largest values. Deviations: it is the step that becomes finer, not the range, so
all values of a channel gain; channels are chosen by the noise at the outputs; more than two copies. Where a ReLU bends, x > 0 becomes the
mean of x + t_j > 0: the float network moves by at most s / 8 there, and it is this network that results are compared with.
"""

from __future__ import annotations

from typing import Annotated, final

import torch
from pydantic import AfterValidator, Field
from torch import Tensor
from torch.fx import GraphModule, Node

from halfstep.graph.copies import Copyable, Work, copy_channels, find_copyable
from halfstep.graph.edit import finish
from halfstep.graph.output_slopes import output_slopes
from halfstep.graph.statistics import Statistics, collect
from halfstep.graph.ties import Ties, find_ties
from halfstep.grid import Grid
from halfstep.ranges import RANGES
from halfstep.registry import Spec
from halfstep.steps.abstract import STEPS, AbstractStep, Context
from halfstep.steps.channel_ranges import first_inputs
from halfstep.steps.float_only import refuse_quantizers
from halfstep.steps.place_quantizers import rounding_grids


@final
@STEPS.register("split_channels")
class SplitChannels(AbstractStep):
    """budget: further work as a share of the network's. most_copies: of one channel. multiple: channels that a tensor grows by at once;
    kernels compute so many of them together, and odd numbers take longer than more channels would.

    samples: calibration inputs for the steps of the grids; the first ``slope_samples`` of them also for the slopes of the outputs. range:
    the range estimator of activations.
    """

    budget: float = Field(default=0.1, gt=0, le=3)
    most_copies: int = Field(default=3, ge=2, le=8)
    multiple: int = Field(default=8, ge=1)
    samples: int = Field(default=128, ge=1)
    slope_samples: int = Field(default=32, ge=1)
    range: Annotated[Spec, AfterValidator(RANGES.checked)] = "mse"

    def full_spec(self) -> Spec:
        """With the options of the range estimator written out."""
        return {self.name: self.model_dump(mode="json") | {"range": RANGES.create(self.range).full_spec()}}

    @property
    def is_exact(self) -> bool:
        """It moves by at most s / 8 where a ReLU bends."""
        return False

    def apply(self, graph: GraphModule, context: Context) -> GraphModule:
        """Widen layers."""
        refuse_quantizers(graph, self.name)
        ties = find_ties(graph)
        copyable = find_copyable(ties)
        if bool(copyable.is_single.all()):
            context.notes.append("No channels were split: all of them are bound to inputs, outputs, sums or operators that count them.")
            return graph
        grids, _ = rounding_grids(graph, context.scheme, ties.channels)
        steps = self._steps(graph, grids, context)
        inputs = first_inputs(context, self.slope_samples, self.name)
        slopes = output_slopes(graph, {node: ties.channels[node].place.axis for node in grids}, (), inputs, context.generator_for(0))
        if slopes is None:
            context.notes.append("No channels were split: the network's outputs have no slopes.")
            return graph
        noise, finest = _noise(ties, steps, slopes.tensors)
        by_set = torch.zeros(len(copyable.is_single), dtype=torch.float64).index_add_(0, copyable.sets, noise)
        work = Work(graph, ties)
        copies = cheapest_copies(by_set, copyable, work, self.budget, self.most_copies, self.multiple)
        copy_channels(graph, ties, copies, shifts(copies, finest))
        before, after = (work.total(k) for k in (torch.ones_like(copies), copies))
        context.notes.append(
            f"Split {int((copies[_written(ties)] > 1).sum())} channels, for {100 * (after / before - 1):.1f} % more work: the "
            f"noise that rounding activations is expected to leave at the outputs fell to "
            f"{100 * float((noise / copies**2).sum() / noise.sum().clamp(min=1e-300)):.0f} %."
        )
        return finish(graph)

    def _steps(self, graph: GraphModule, grids: dict[Node, Grid], context: Context) -> dict[Node, float]:
        """The step of each tensor's grid."""
        statistics, estimator = Statistics(""), RANGES.create(self.range)
        for _ in collect(graph, set(grids), first_inputs(context, self.samples, self.name), statistics):
            pass
        seen = {node: statistics.histograms[str(node.meta["name"])].distribution() for node in grids}
        return {node: float(estimator.range(seen[node], grid).fit(grid)[0]) for node, grid in grids.items()}


def shifts(copies: Tensor, steps: Tensor) -> Tensor:
    """The t of each copy, float64 [N, max(copies)]; of those that a channel has not, what they may be."""
    turns = torch.arange(int(copies.max()), dtype=torch.float64)
    return (2 * turns + 1 - copies[:, None]) / (2 * copies[:, None]) * steps[:, None]


def cheapest_copies(noise: Tensor, copyable: Copyable, work: Work, extra: float, most: int, multiple: int) -> Tensor:
    """The copies of each number, int64: what pays best, as much as ``extra`` allows, so many of a tensor at once. noise: of each set."""
    price = work.of_one_more(copyable)
    further = torch.arange(1, most, dtype=torch.float64)
    gain = noise[:, None] * (further**-2 - (further + 1) ** -2) / price.clamp(min=1)[:, None]  # less for each further copy of a set
    gain[copyable.is_single | (price == 0)] = 0
    copies, limit = torch.ones(len(noise), dtype=torch.int64), (1 + extra) * work.total(torch.ones_like(copyable.sets))
    for buyers in _packs(gain, copyable.tensors, multiple):
        bought = copies + torch.bincount(buyers, minlength=len(noise))
        if work.total(bought[copyable.sets]) <= limit:
            copies = bought
    return copies[copyable.sets]


def _packs(gain: Tensor, tensors: Tensor, size: int) -> list[Tensor]:
    """Which sets to give one more copy, ``size`` of one tensor in a pack, those that gain most first. gain [sets, further copies]."""
    best, order = gain.flatten().sort(descending=True, stable=True)
    best, buyers = best[best > 0], order[best > 0] // gain.shape[1]
    packs: list[tuple[float, Tensor]] = []
    for tensor in tensors[buyers].unique():
        own = torch.nonzero(tensors[buyers] == tensor).flatten()
        packs.extend((float(best[part].mean()), buyers[part]) for part in own.split(size) if len(part) == size)
    return [members for _, members in sorted(packs, key=lambda pack: -pack[0])]


def _noise(ties: Ties, steps: dict[Node, float], slopes: dict[Node, Tensor]) -> tuple[Tensor, Tensor]:
    """(the noise of each number at the outputs, the step of the first grid it is rounded to), float64."""
    noise, first = (torch.zeros(len(ties.is_bound), dtype=torch.float64) for _ in range(2))
    for node, step in steps.items():
        numbers = ties.channels[node].numbers
        if node in slopes:
            noise.index_add_(0, numbers, step**2 / 12 * slopes[node])
        first[numbers] = torch.where(first[numbers] == 0, step, first[numbers])
    return noise, first


def _written(ties: Ties) -> Tensor:
    return torch.cat([numbers for _, numbers in ties.writers])
