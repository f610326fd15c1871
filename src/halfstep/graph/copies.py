"""Channels given several times: which of them can be, what that costs, and the network that has them.

    a layer that writes channel i      row i of its weight and bias, k_i times, with a shift of the bias for each copy
    a layer that reads channel i       column i of its weight, k_i times, each time divided by k_i
    a depthwise layer                  its channel k_i times: input and output are copied together; its bias takes back the input's shifts

k_i: copies of channel i. The shifts of a channel's copies add up to 0, so the network computes what it computed, but where a function
between the layers bends inside of the shifts. `graph/ties.py` tells which channels of which tensors are one. Channels are left single that
it calls bound, that are added up (the shifts of addends would add up too), that a layer with groups of several channels reads or writes, or
whose number an operator spells out (a view to given sizes, the slopes of a PReLU).
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.fx import GraphModule

from halfstep.graph.channels import response, write_bias
from halfstep.graph.edit import attribute, replace_parameter
from halfstep.graph.macs import num_macs
from halfstep.graph.names import operator_name
from halfstep.graph.operators import WeightedLayer, set_argument
from halfstep.graph.ties import Ties

_OUTPUT = 32  # multiply-accumulates: with these, what a share more work adds to the latency in ONNX Runtime is about that share
_SINGLE = ("add", "sub", "view", "reshape", "prelu")


@dataclass(frozen=True)
class Copyable:
    """sets: int64 [how many numbers ties have], which of them are copied together. is_single: bool [how many sets there are].

    tensors: int64 [sets], which of them the same layer writes.
    """

    sets: Tensor
    is_single: Tensor
    tensors: Tensor


def find_copyable(ties: Ties) -> Copyable:
    """Which numbers go together: the inputs and outputs of depthwise layers, one by one."""
    parents, is_single = torch.arange(len(ties.is_bound)), ties.is_bound.clone()
    inputs = {layer.node: numbers for layer, numbers in ties.readers}
    for layer, outputs in ties.writers:
        if layer.groups == 1:
            continue
        given = inputs.get(layer.node)
        if given is not None and len(given) == len(outputs) == layer.groups:
            for one, other in zip(given.tolist(), outputs.tolist(), strict=True):
                parents[parents == parents[other]] = parents[one].clone()
        else:
            is_single[outputs if given is None else torch.cat([given, outputs])] = True
    for node, channels in ties.channels.items():
        if operator_name(node) in _SINGLE:
            is_single[channels.numbers] = True
    used, sets = torch.unique(parents, return_inverse=True)
    tensors = torch.zeros(len(used), dtype=torch.int64)
    for index, (_, outputs) in enumerate(ties.writers):
        tensors[sets[outputs]] = index
    return Copyable(sets, torch.zeros(len(used), dtype=torch.int64).index_add_(0, sets, is_single.long()) > 0, tensors)


class Work:
    """What all layers do for one sample, as a function of the copies of each number.

    It is counted in multiply-accumulates; an output, which has to be rescaled, rounded and stored, counts as ``_OUTPUT`` of them.
    """

    def __init__(self, graph: GraphModule, ties: Ties) -> None:
        inputs = {layer.node: numbers for layer, numbers in ties.readers}
        self._terms: list[tuple[float, list[Tensor]]] = []
        for layer, outputs in ties.writers:
            macs = num_macs(graph, layer) or attribute(graph, layer.weight).numel()  # without fixed sizes, all layers look at one position
            is_alone = layer.groups > 1 or layer.node not in inputs
            self._terms.append((float(macs), [outputs] if is_alone else [inputs[layer.node], outputs]))
            self._terms.append((float(_OUTPUT * math.prod(size or 1 for size in layer.node.meta["shape"][1:])), [outputs]))

    def total(self, copies: Tensor) -> float:
        """With ``copies`` [numbers] of each number."""
        return sum(work * math.prod(float(copies[numbers].double().mean()) for numbers in sides) for work, sides in self._terms)

    def of_one_more(self, copyable: Copyable) -> Tensor:
        """What the first further copy of each set adds, float64 [sets]."""
        added = torch.zeros(len(copyable.is_single), dtype=torch.float64)
        for work, sides in self._terms:
            for numbers in sides:
                added.index_add_(0, copyable.sets[numbers], torch.full((len(numbers),), work / len(numbers), dtype=torch.float64))
        return added


def copy_channels(graph: GraphModule, ties: Ties, copies: Tensor, shifts: Tensor) -> None:
    """Give each number ``copies`` [numbers] times, 1 or more; shifts: of each of them, float64 [numbers, the most copies of one]."""
    inputs = {layer.node: (numbers, ties.channels[layer.input].place.block) for layer, numbers in ties.readers}
    for layer, outputs in ties.writers:
        wide = _Repeated.of(outputs, copies)
        own_shift = shifts[outputs[wide.sources], wide.turns]
        if layer.groups > 1:
            if len(wide.sources) > len(outputs):
                given = inputs[layer.node][0]
                _widen_depthwise(graph, layer, wide.sources, own_shift, shifts[given[wide.sources], wide.turns])
            continue
        if layer.node in inputs:
            _widen_inputs(graph, layer, *inputs[layer.node], copies)
        if len(wide.sources) > len(outputs):
            weight = attribute(graph, layer.weight)
            _store(graph, layer, weight.index_select(layer.output_axis, wide.sources), wide.sources, own_shift)
    for node, channels in ties.channels.items():
        shape = list(node.meta["shape"])
        shape[channels.place.axis] = int(copies[channels.numbers].sum()) * channels.place.block
        node.meta["shape"] = tuple(shape)


@dataclass(frozen=True)
class _Repeated:
    """The channels of a tensor with their copies, each behind the other. sources: what each repeats. turns: for the how manieth time."""

    sources: Tensor
    turns: Tensor

    @classmethod
    def of(cls, numbers: Tensor, copies: Tensor) -> _Repeated:
        own = copies[numbers]
        sources = torch.arange(len(numbers)).repeat_interleave(own)
        return cls(sources, torch.arange(len(sources)) - (own.cumsum(0) - own)[sources])


def _widen_inputs(graph: GraphModule, layer: WeightedLayer, numbers: Tensor, block: int, copies: Tensor) -> None:
    """Repeat columns of a layer without groups; ``block`` neighbouring ones belong to a channel, and ``numbers`` counts columns."""
    own = copies[numbers[::block]]
    if int(own.max()) == 1:
        return
    axis, weight = layer.input_axis, attribute(graph, layer.weight)
    columns = torch.arange(len(numbers)).view(-1, block).repeat_interleave(own, 0).flatten()
    shares = copies[numbers[columns]].view([-1 if index == axis else 1 for index in range(weight.ndim)])
    replace_parameter(graph, layer.weight, (weight.double().index_select(axis, columns) / shares).to(weight.dtype))


def _widen_depthwise(graph: GraphModule, layer: WeightedLayer, sources: Tensor, shift: Tensor, given: Tensor) -> None:
    """Repeat channels of a depthwise layer whose inputs are shifted by ``given`` and whose outputs are to be by ``shift``."""
    weight = attribute(graph, layer.weight)[sources]
    set_argument(layer.node, "groups", len(sources))
    widened = dataclasses.replace(layer, groups=len(sources))
    _store(graph, widened, weight, sources, shift - response(weight, widened, given))


def _store(graph: GraphModule, layer: WeightedLayer, weight: Tensor, sources: Tensor, shift: Tensor) -> None:
    """Give the layer a weight of repeated rows, and the bias and what is known of its batch norm likewise, shifted."""
    replace_parameter(graph, layer.weight, weight)
    if layer.bias is None:
        write_bias(graph, layer, shift)
    else:
        replace_parameter(graph, layer.bias, (attribute(graph, layer.bias)[sources].double() + shift).to(weight.dtype))
    known: dict[str, tuple[Tensor, Tensor]] = graph.meta.get("batch_norms", {})
    if layer.name in known:
        mean, std = known[layer.name]
        known[layer.name] = mean[sources] + shift.to(mean.dtype), std[sources]
