"""How strongly the network's outputs feel noise on each channel of a tensor, and on the weights.

    h_i = sum over samples, positions of   E (d(v y) / d x_i)²          v: random signs, one for each output value, independent

y: all outputs of the network. x_i: channel i of a tensor, or the weights between an output and an input channel of a layer. E over v is
the squared norm of the Jacobian's column, so that independent noise of variance q on x_i changes the outputs by h_i q, summed up over
squares. One backward pass a few samples gives all of them (Hutchinson 1990, "A stochastic estimator of the trace of the influence matrix
for Laplacian smoothing splines"): signs are drawn once for each sample, and the samples of one pass keep apart because their signs are
independent. Noise that channels share is felt as sum of E g gᵀ says, g = d(v y) / dx, whose diagonal is h.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.fx import GraphModule, Interpreter, Node
from torch.utils import _pytree as pytree

from halfstep import parallel
from halfstep.graph.channels import blocks, channel_rows
from halfstep.graph.operators import WeightedLayer
from halfstep.graph.run import broken_at, cut

_AT_ONCE = 4  # samples of a backward pass: more need more memory and tell the same


@dataclass(frozen=True)
class OutputSlopes:
    """tensors: h [C] of each tensor. weights: h [G, R, I] of each layer, by its node, as `channels.blocks` orders them. float64."""

    tensors: dict[Node, Tensor]
    weights: dict[Node, Tensor]


@dataclass(frozen=True)
class ChannelMoments:
    """Of a tensor of C channels.

    rows: what it holds at some of its positions [N, C]. slopes: sum of E g gᵀ over all of them, float64 [C, C].
    """

    rows: Tensor
    slopes: Tensor


def output_slopes(
    graph: GraphModule,
    axes: Mapping[Node, int],
    layers: Collection[WeightedLayer],
    batches: Iterable[tuple[Tensor, ...]],
    generator: torch.Generator,
) -> OutputSlopes | None:
    """The h of the tensors in ``axes``, which says on which axis their channels lie, and of the weights of ``layers``.

    None where no output depends on them by a slope.
    """
    tensors: dict[Node, Tensor] = {}
    weights: dict[Node, Tensor] = {}
    for one in _passes(graph, axes, layers, batches, generator):
        for node, axis in axes.items():
            if (slope := one.slopes.get(node)) is not None:
                tensors[node] = tensors.get(node, 0) + channel_rows(slope, axis).square().sum(0).double()
        for layer in layers:
            if (slope := one.slopes.get(layer.weight)) is not None:
                weights[layer.node] = weights.get(layer.node, 0) + blocks(slope.double().square(), layer).sum(3)
    return OutputSlopes(tensors, weights) if tensors or weights else None


def channel_moments(
    graph: GraphModule,
    axes: Mapping[Node, int],
    batches: Iterable[tuple[Tensor, ...]],
    num_rows: int,
    generator: torch.Generator,
) -> dict[Node, ChannelMoments]:
    """Of those tensors in ``axes`` that the outputs depend on by a slope. num_rows: of each sample, drawn at random.

    Raises `CalibrationError` where one of them, or its slopes, turns NaN or infinite.
    """
    rows: dict[Node, list[Tensor]] = {}
    slopes: dict[Node, Tensor] = {}
    for one in _passes(graph, axes, (), batches, generator, num_rows):
        for node, axis in axes.items():
            if (slope := one.slopes.get(node)) is None:
                continue
            values, own = (channel_rows(x[: one.num_real], axis) for x in (one.values[node], slope))
            if not bool(torch.isfinite(values).all() and torch.isfinite(own).all()):
                raise broken_at(node)
            chosen = one.rows[node]
            rows.setdefault(node, []).append(values[chosen])
            slopes[node] = slopes.get(node, 0) + own.double().T @ own.double()
    return {node: ChannelMoments(torch.cat(rows[node]), slopes[node]) for node in rows}


@dataclass(frozen=True)
class _Pass:
    """values, slopes: of the tensors asked for, slopes of the weights too. num_real: samples that do not only fill the batch up.

    rows: of each tensor's positions, those that are looked at.
    """

    values: dict[Node, Tensor]
    slopes: dict[Node, Tensor]
    num_real: int
    rows: dict[Node, Tensor]


def _passes(
    graph: GraphModule,
    axes: Mapping[Node, int],
    layers: Collection[WeightedLayer],
    batches: Iterable[tuple[Tensor, ...]],
    generator: torch.Generator,
    num_rows: int = 0,
) -> Iterator[_Pass]:
    """Backward passes of a few samples each; none where the outputs have no slope. num_rows: of each sample."""
    turns = parallel.Turns()

    def one(task: tuple[int, tuple[tuple[Tensor, ...], int]]) -> _Pass | None:
        number, (inputs, num_real) = task
        tape = _Tape(graph, set(axes), {layer.weight for layer in layers})
        try:
            with torch.enable_grad():
                outputs = tape.run(*inputs)
                with turns.of(number):
                    score = _score(outputs, num_real / len(inputs[0]), generator)
                    rows = _drawn(tape, axes, num_real, num_rows, generator) if num_rows and score is not None else {}
        except BaseException:
            turns.pass_over(number)
            raise
        if score is None:
            return None
        slopes = zip(tape.leaves, torch.autograd.grad(score, list(tape.leaves.values()), allow_unused=True), strict=True)
        values = {node: value.detach() for node, value in tape.leaves.items()}
        return _Pass(values, {node: slope for node, slope in slopes if slope is not None}, num_real, rows)

    parts = (cut_part for inputs in batches for part in _parts(inputs) for cut_part in cut(graph, part))
    for found in parallel.each(one, enumerate(parts)):
        if found is None:
            return
        yield found


def _drawn(tape: _Tape, axes: Mapping[Node, int], num_real: int, num_rows: int, generator: torch.Generator) -> dict[Node, Tensor]:
    """The positions of each tensor that are looked at."""
    lengths = {node: len(channel_rows(tape.leaves[node][:num_real], axis)) for node, axis in axes.items()}
    return {node: torch.randperm(length, generator=generator)[: num_rows * num_real] for node, length in lengths.items()}


class _Tape(Interpreter):
    """Runs the graph and remembers the tensors whose slopes are asked for.

    Weights become leaves of their own, and so do tensors that depend on none.
    """

    def __init__(self, graph: GraphModule, tensors: set[Node], weights: set[Node]) -> None:
        super().__init__(graph, garbage_collect_values=True)
        self._tensors, self._weights = tensors, weights
        self.leaves: dict[Node, Tensor] = {}

    def run_node(self, n: Node) -> Any:
        """Compute one node."""
        result = super().run_node(n)
        if n.op == "get_attr" and isinstance(result, Tensor):
            result = result.detach()
        if n in self._weights or (n in self._tensors and not result.requires_grad):
            result = result.detach().requires_grad_()
        if n in self._weights | self._tensors:
            self.leaves[n] = result
        return result


def _score(outputs: Any, share_real: float, generator: torch.Generator) -> Tensor | None:
    """Sum of v y, without what was computed of samples that only fill a batch up."""
    terms = []
    for output in pytree.tree_leaves(outputs):
        if not isinstance(output, Tensor) or not output.requires_grad:
            continue
        signs = torch.randint(0, 2, output.shape, generator=generator).to(output.device, output.dtype) * 2 - 1
        if share_real < 1 and output.ndim:
            signs[round(len(output) * share_real) :] = 0
        terms.append((output * signs).sum())
    return torch.stack(terms).sum() if terms else None


def _parts(inputs: tuple[Tensor, ...]) -> Iterator[tuple[Tensor, ...]]:
    yield from zip(*(x.split(_AT_ONCE) for x in inputs), strict=True)
