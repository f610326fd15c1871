"""Weights are set to 0 while the network trains on its grids, more and more of them, and stay 0.

    s(t) = S (1 - (1 - t / (u T))^3)    until t = u T,  then S        w <- m w   after each step,      ŵ = Q(m w)

s: share of a layer's weights that are 0, S: ``sparsity``, t of T: steps, u: ``until``, m: mask, Q: the quantizer. Zhu and Gupta 2017, "To
prune, or not to prune: exploring the efficacy of pruning for model compression", the schedule of section 3 with no zeros at the beginning;
masks are found anew a number of times on the way, and what is 0 stays so.

pattern         what becomes 0
unstructured    the smallest weights of each layer
N:M             of every M neighbouring inputs of an output, at each place of a kernel, the M - N smallest; S is 1 - N / M
channel         the output channels with the smallest weights: length times gain of the batch norm behind. Bias and shift too

Behind a batch norm, weights are compared in units of their channel's length, which the batch norm does not notice. A pattern N:M leaves
layers alone whose number of inputs is no multiple of M, and the pattern channel those whose output is the network's. Mishra et al. 2021,
"Accelerating sparse deep neural networks", has the axis of N:M. Deviation: in a pattern N:M the schedule's share is rounded down to whole
weights.
"""

from __future__ import annotations

import fnmatch
import re
from typing import Literal, final

import pydantic
import torch
from torch import Tensor, nn
from torch.fx import GraphModule, Node

from halfstep.graph.edges import behind_quantizer, quantizer_of
from halfstep.graph.edit import attribute
from halfstep.graph.operators import WeightedLayer, weighted_layer, weighted_layers
from halfstep.steps.training.live_norm import LiveNorm
from halfstep.steps.training.trainable import Trainable
from halfstep.steps.training.zeros import refuse_without_zero

_NUM_TIMES = 32  # that masks are found anew
_GROUPS = re.compile(r"([1-9]\d*):([1-9]\d*)")


class PruningOptions(pydantic.BaseModel):
    """sparsity: S, 0.5 where it is not given. pattern: unstructured, N:M or channel. schedule: gradual, or once for all zeros in the first
    step. until: u. exclude: patterns of layers to leave alone.
    """

    model_config = pydantic.ConfigDict(frozen=True, extra="forbid")

    pattern: str = "unstructured"
    sparsity: float | None = pydantic.Field(default=None, gt=0, lt=1)
    schedule: Literal["gradual", "once"] = "gradual"
    until: float = pydantic.Field(default=0.5, gt=0, lt=1)
    exclude: tuple[str, ...] = ()

    @pydantic.field_validator("pattern")
    @classmethod
    def _is_known(cls, value: str) -> str:
        groups = _GROUPS.fullmatch(value)
        if value not in ("unstructured", "channel") and (groups is None or int(groups[1]) >= int(groups[2])):
            raise ValueError("a pattern is 'unstructured', 'channel', or how many of how many neighbours may stay, such as '2:4'")
        return value

    @pydantic.field_validator("sparsity")
    @classmethod
    def _fits_the_pattern(cls, value: float | None, info: pydantic.ValidationInfo) -> float | None:
        groups = _GROUPS.fullmatch(info.data.get("pattern", ""))
        if groups is not None and value is not None and abs(value - (1 - int(groups[1]) / int(groups[2]))) > 1e-6:
            raise ValueError(f"a pattern {groups[0]} has a sparsity of {1 - int(groups[1]) / int(groups[2]):g}: leave it out")
        return value

    def share(self, step: int, num_steps: int) -> float:
        """S / S behind step ``step`` of ``num_steps``; 1 at the end of every training."""
        end = min(self.until * num_steps, num_steps - 1)
        if self.schedule == "once" or step + 1 >= end:
            return 1.0
        return 1 - (1 - (step + 1) / end) ** 3

    def is_due(self, step: int, num_steps: int) -> bool:
        """Whether masks are found anew behind step ``step``."""
        interval = max(1, int(self.until * num_steps / _NUM_TIMES))
        before = self.share(step - 1, num_steps) if step else 0.0
        return before < 1 and (step % interval == 0 or self.share(step, num_steps) == 1)


@final
class Pruning(nn.Module):
    """Of the weights of ``trainable`` that have a learned quantizer; the masks are in its buffers."""

    def __init__(self, trainable: Trainable, options: PruningOptions) -> None:
        super().__init__()
        self.options = options
        network, seen = trainable.network, set()
        self.skipped: list[str] = []
        found = []
        for layer in weighted_layers(network):
            source = behind_quantizer(layer.weight)
            is_excluded = any(fnmatch.fnmatchcase(layer.name, pattern) for pattern in options.exclude)
            if source.op != "get_attr" or quantizer_of(layer.weight) is None or source in seen or is_excluded:
                continue
            seen.add(source)
            weight = attribute(network, source)
            if not _has_pattern(layer, weight, options.pattern):
                self.skipped.append(layer.name)
                continue
            refuse_without_zero(layer, weight, weight.abs() <= weight.abs().median())
            norm = network.get_submodule(trainable.norms[layer.name]) if layer.name in trainable.norms else None
            assert norm is None or isinstance(norm, LiveNorm)
            found.append(PrunedWeight(network, layer, norm, options.pattern == "channel"))
        self._found = found
        self.weights = nn.ModuleList(found)  # for the state

    def update(self, step: int, num_steps: int) -> None:
        """After step ``step`` of the optimizer."""
        is_due, share = self.options.is_due(step, num_steps), self.options.share(step, num_steps)
        for weight in self._found:
            if is_due:
                weight.find(self.options, share)
        self.restore()

    def restore(self) -> None:
        """Set the weights to 0 again."""
        for weight in self._found:
            weight.restore()

    def note(self) -> str:
        """For the report."""
        masks = [weight.is_zero for weight in self._found]
        share = sum(int(mask.sum()) for mask in masks) / max(sum(mask.numel() for mask in masks), 1)
        skipped = f" The pattern does not fit {', '.join(self.skipped)}." if self.skipped else ""
        return f"Pruned ({self.options.pattern}): {100 * share:.1f} % of the weights of {len(masks)} layers are 0.{skipped}"


@final
class PrunedWeight(nn.Module):
    """The weight of one layer. is_zero: its mask; what stands beside it, a bias or the shift of a norm, is 0 where a whole channel is."""

    is_zero: Tensor

    def __init__(self, network: GraphModule, layer: WeightedLayer, norm: LiveNorm | None, is_by_channel: bool) -> None:
        super().__init__()
        weight = attribute(network, behind_quantizer(layer.weight))
        bias = None if layer.bias is None or behind_quantizer(layer.bias).op != "get_attr" else behind_quantizer(layer.bias)
        beside = norm.shift if norm is not None else None if bias is None else attribute(network, bias)
        self._tensors = weight, beside, norm  # in a tuple: no parts of this module
        self._axis, self._is_by_channel = layer.output_axis, is_by_channel
        self.register_buffer("is_zero", torch.zeros(weight.shape, dtype=torch.bool, device=weight.device))

    @torch.no_grad()
    def find(self, options: PruningOptions, share: float) -> None:
        """The mask with ``share`` of the zeros there will be."""
        weight, _, norm = self._tensors
        magnitude = weight.abs().masked_fill(self.is_zero, -1)  # before weights that happen to be 0
        groups = _GROUPS.fullmatch(options.pattern)
        sparsity = 0.5 if options.sparsity is None else options.sparsity
        if groups is not None:
            num, width = int((int(groups[2]) - int(groups[1])) * share + 1e-9), int(groups[2])
            rows = magnitude.movedim(1 - self._axis, -1)
            mask = _smallest(rows.reshape(-1, width), num).view(rows.shape).movedim(-1, 1 - self._axis)
        elif options.pattern == "channel":
            length = weight.movedim(self._axis, 0).flatten(1).norm(dim=1)
            length = length if norm is None else length * norm.affine()[0].to(length)
            length = length.masked_fill(self._channels(), -1)
            channels = _smallest(length[None], min(round(sparsity * share * len(length)), len(length) - 1))[0]
            shape = [1] * weight.ndim
            shape[self._axis] = -1
            mask = channels.view(shape).expand_as(weight)
        else:
            mask = _smallest(magnitude.reshape(1, -1), round(sparsity * share * weight.numel())).view_as(weight)
        self.is_zero.copy_(mask)

    @torch.no_grad()
    def restore(self) -> None:
        """Zeros at the mask."""
        weight, beside, norm = self._tensors
        weight.masked_fill_(self.is_zero, 0)
        if self._is_by_channel and beside is not None:
            beside.masked_fill_(self._channels(), 0)
        if self._is_by_channel and norm is not None:
            norm.mean.masked_fill_(self._channels(), 0)

    def _channels(self) -> Tensor:
        """The output channels that are 0 as a whole."""
        return self.is_zero.movedim(self._axis, 0).flatten(1).all(1)


def _smallest(rows: Tensor, num: int) -> Tensor:
    """A mask of the ``num`` smallest of each row; of equal ones the first."""
    order = torch.argsort(rows, dim=1, stable=True)[:, :num]
    return torch.zeros(rows.shape, dtype=torch.bool, device=rows.device).scatter_(1, order, True)


def _has_pattern(layer: WeightedLayer, weight: Tensor, pattern: str) -> bool:
    """Whether the layer can be pruned this way."""
    groups = _GROUPS.fullmatch(pattern)
    if groups is not None:
        return weight.shape[layer.input_axis] % int(groups[2]) == 0
    return pattern != "channel" or (not _reaches_output(layer.node) and (layer.output_axis == 0 or layer.groups == 1))


def _reaches_output(node: Node) -> bool:
    """Whether the value of ``node`` gets out of the network without another layer between."""
    seen, front = {node}, [node]
    while front:
        for user in front.pop().users:
            if user.op == "output":
                return True
            if user not in seen and weighted_layer(user) is None:
                seen.add(user)
                front.append(user)
    return False
