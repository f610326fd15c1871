"""Shift the channels of tensors between layers, so that each of them lies evenly around 0 and one grid for all of them is narrower.

    y_i <- y_i - t_i        b_in[i] <- b_in[i] - t_i        b_out <- b_out + W_out t        t_i = (min y_i + max y_i) / 2

y: what a layer, or a sum of several, writes; b_in: the bias of the layer, b_out, W_out: of the layers that read it. Where some channels
reach far up and others far down, a grid from the lowest to the highest of all values is up to twice as wide as its widest channel. The
network computes what it computed. Wei et al. 2023, "Outlier suppression+: accurate quantization of large language models by equivalent and
optimal shifting and scaling", equation 3 (there behind layer norms of transformers).

Shifts of addends add up: a layer whose output is only added has the shift that makes the squares of the half ranges, its own and the sum's,
least together (their errors reach the outputs by the same way). Left alone: what meets a ReLU or any other function, a layer that pads its
input with zeros (a shifted 0 is no 0), a transposed convolution, and whatever `graph/ties.py` calls bound. Deviations: the sums, and
convolutions: the residual stream of MobileNetV2 is where it pays.
"""

from __future__ import annotations

from typing import final

import torch
from pydantic import Field
from torch import Tensor
from torch.fx import GraphModule, Node

from halfstep.graph.borders import keeps_constants, layer_pads
from halfstep.graph.channels import add_to_bias, response
from halfstep.graph.edit import attribute, finish
from halfstep.graph.names import operator_name
from halfstep.graph.operators import CONCATENATIONS, Role, argument, role_of
from halfstep.graph.ties import Ties, find_ties
from halfstep.steps.abstract import STEPS, AbstractStep, Context
from halfstep.steps.channel_ranges import channel_ranges, first_inputs
from halfstep.steps.float_only import refuse_quantizers

Ranges = dict[Node, tuple[Tensor, Tensor]]
_SUMS = {"add": 1, "sub": -1}
_NUM_TRIALS = 65  # of shifts between those that suit the layer and the sum


@final
@STEPS.register("shift_channels")
class ShiftChannels(AbstractStep):
    """samples: calibration inputs for the ranges of the channels."""

    samples: int = Field(default=128, ge=1)

    def apply(self, graph: GraphModule, context: Context) -> GraphModule:
        """Change biases; layers that have none get one."""
        refuse_quantizers(graph, self.name)
        ties = find_ties(graph)
        is_free = ~_is_fixed(graph, ties)
        writers = {layer.node: layer for layer, numbers in ties.writers if bool(is_free[numbers].any())}
        if not writers:
            context.notes.append("No channels were shifted: all of them meet a function, a padding, an input or an output.")
            return graph
        measured = [node for node in ties.channels if node in writers or operator_name(node) in _SUMS]
        axes = {node: ties.channels[node].place.axis for node in measured}
        shifts = _Shifts(ties, is_free, channel_ranges(graph, axes, first_inputs(context, self.samples, self.name)))
        for node in ties.channels:
            shifts.visit(node)
        known: dict[str, tuple[Tensor, Tensor]] = graph.meta.get("batch_norms", {})
        for layer in writers.values():
            shift = shifts.of[layer.node]
            add_to_bias(graph, layer, -shift)
            if layer.name in known:
                mean, std = known[layer.name]
                known[layer.name] = mean - shift, std
        for layer, numbers in ties.readers:
            shift = shifts.of[layer.input].repeat_interleave(ties.channels[layer.input].place.block)
            if bool(is_free[numbers].any()):
                add_to_bias(graph, layer, response(attribute(graph, layer.weight), layer, shift))
        context.notes.append(f"Shifted the channels of {len(writers)} layers.")
        return finish(graph)


def _is_fixed(graph: GraphModule, ties: Ties) -> Tensor:
    """Of every number, whether some channel of it must not be shifted."""
    is_fixed = ties.is_bound.clone()
    layers = {layer.node for layer, _ in ties.writers}
    for node, channels in ties.channels.items():
        if node not in layers and not _carries_shifts(node, ties):
            is_fixed[channels.numbers] = True
    for layer, numbers in ties.readers:
        if layer.is_transposed or layer_pads(graph, layer):
            is_fixed[numbers] = True
    return is_fixed


def _carries_shifts(node: Node, ties: Ties) -> bool:
    """Whether an operator that is no layer does to shifted channels what it does to the others, and shifts what it writes alike."""
    if operator_name(node) in _SUMS:
        return ties.channels[node].place.block == 1 and _factor(node) != 0
    if operator_name(node) in CONCATENATIONS:
        return bool(argument(node, "dim", 0) % len(node.meta["shape"]) == ties.channels[node].place.axis)
    return role_of(node) in (Role.PASS, Role.AVERAGE) and keeps_constants(node)


def _factor(node: Node) -> float:
    """By what an addition or subtraction multiplies its second operand."""
    return float(argument(node, "alpha", 1)) * _SUMS[operator_name(node)]


class _Shifts:
    """The shifts of all tensors, found in the order of computation. of: t [C] by tensor, float64, 0 for channels that are fixed."""

    def __init__(self, ties: Ties, is_free: Tensor, ranges: Ranges) -> None:
        self.ties, self.is_free, self.ranges = ties, is_free, ranges
        self.of: dict[Node, Tensor] = {}
        self._writers = {layer.node for layer, _ in ties.writers}

    def visit(self, node: Node) -> None:
        """Find the shifts of ``node``; those of what it reads are known."""
        is_free = self.is_free[self.ties.channels[node].numbers]
        found = self._found(node) if bool(is_free.any()) else torch.zeros(len(is_free), dtype=torch.float64)
        self.of[node] = torch.where(is_free, found, 0)

    def _found(self, node: Node) -> Tensor:
        if node in self._writers:
            return self._written(node)
        operands = _operands(node)
        if operator_name(node) in _SUMS:
            return self.of[operands[0]] + _factor(node) * self.of[operands[1]]
        if operator_name(node) in CONCATENATIONS:
            return torch.cat([self.of[source] for source in operands])
        return self.of[operands[0]]

    def _written(self, node: Node) -> Tensor:
        """Of what a layer writes."""
        middle, reach = _middle_and_reach(self.ranges[node])
        added = self._sum_behind(node)
        if added is None:
            return middle
        wanted, beyond = added
        trials = torch.lerp(middle, wanted, torch.linspace(0, 1, _NUM_TRIALS, dtype=torch.float64)[:, None])
        squares = (reach + (trials - middle).abs()).square() + (beyond + (trials - wanted).abs()).square()
        return trials.gather(0, squares.argmin(0, keepdim=True))[0]

    def _sum_behind(self, node: Node) -> tuple[Tensor, Tensor] | None:
        """(the shift of ``node`` that suits the sum, half the sum's range), where a sum with a tensor that came before alone reads it."""
        behind = next(iter(node.users))
        if len(node.users) > 1 or behind not in self.ranges or operator_name(behind) not in _SUMS:
            return None
        first, second = _operands(behind)
        other, share, own = (second, _factor(behind), 1.0) if first is node else (first, 1.0, _factor(behind))
        if other not in self.of:
            return None
        middle, reach = _middle_and_reach(self.ranges[behind])
        return (middle - share * self.of[other]) / own, reach / abs(own)


def _operands(node: Node) -> list[Node]:
    """The tensors an operator reads, the same one twice where it does."""
    arguments = node.args[0] if isinstance(node.args[0], (list, tuple)) else node.args
    return [source for source in arguments if isinstance(source, Node)]


def _middle_and_reach(ends: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    """Of a range, its middle and half its length."""
    low, high = ends
    return (low + high) / 2, (high - low) / 2
