"""A softmax, with the scale and the masks in front of it: whatever stands between the scores' grid and the softmax is found out by trying.

    f(scores) = slope scores + bias,        or far below all others where a score is hidden

f, the operators in between, is run on scores of 0, of 1 and on others, which gives slope and bias and proves them. A mask that is an input
of the network is run through with each value it can have, which says which values hide; then with the bits of each entry's number, which
says which entry hides which score.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.fx import Node

from halfstep.graph.operators import argument
from halfstep.integer.lower.lowering import Lowering
from halfstep.integer.lower.merge import merge_mode
from halfstep.integer.lower.movement import moved
from halfstep.integer.lower.normalization import softmax_fields
from halfstep.integer.lower.refusal import NoIntegerFormError
from halfstep.integer.lower.target import Target
from halfstep.integer.operators import Lookup, Reshape, Softmax
from halfstep.integer.operators.softmax import HIDDEN, MOST_BIAS
from halfstep.integer.value import Value

_FAR = 1e3  # so far below the others that its power is 0 in float32 too
_GUARD = 8  # bits of a bias behind the point of a score's code
_MOST_VALUES = 256  # of a mask
_LEAST = float(torch.finfo(torch.float32).min)
_MORE = "what stands in front of it is more than a scale and a mask"
_PROBABILITIES = 2.0**-16  # the scale of probabilities that leave the network


def lower_softmax(lowering: Lowering, node: Node, target: Target) -> str:
    """A `Softmax`."""
    before = node.args[0]
    assert isinstance(before, Node)
    source, masks = _sources(lowering, before)
    x = lowering.input(source)
    between = _Between(lowering, before, source)
    shown, keep = _keep(lowering, between, masks, target.name)
    slope, bias = _affine(lowering, between, shown)
    value = target.value(_PROBABILITIES)
    inputs = (_in_shape(lowering, x, target), *([keep] if keep else []))
    axis = lowering.axis(node, int(argument(node, "dim", -1)))
    guard, stored = _stored(bias, slope * x.scale, max(-x.centred_bounds[0], x.centred_bounds[1]))
    fields = softmax_fields(slope * x.scale, value.scale, guard, merge_mode(lowering.mode))
    return lowering.emit(Softmax(target.name, inputs, value.name, axis, *fields, stored), value)


@dataclass(frozen=True)
class _Between:
    """The operators between the scores (``source``) and the softmax (``end`` is what it reads)."""

    lowering: Lowering
    end: Node
    source: Node

    def __call__(self, scores: Tensor, given: dict[Node, Tensor]) -> Tensor:
        """From scores [batch, *sample], what the softmax reads: [batch, *sample], float64, without infinities."""
        lowering = self.lowering
        real = lowering.layout(self.source).from_samples(scores, lowering.seen.shapes[self.source])
        made = lowering.seen.evaluate(self.end, {self.source: real, **lowering.seen.inputs, **given})
        return lowering.layout(self.end).to_samples(made).double().clamp(min=_LEAST)

    def scores(self, number: float = 0.0) -> Tensor:
        """The same score everywhere."""
        return torch.full((self.lowering.batch_size, *self.lowering.shape(self.source)), number)


def _sources(lowering: Lowering, before: Node) -> tuple[Node, list[Node]]:
    """(the scores, the inputs of the network that a mask is made of)."""
    scores: set[Node] = set()
    masks: set[Node] = set()
    waiting, seen = [before], {before}
    while waiting:
        current = waiting.pop()
        if current.op == "placeholder":
            masks.add(current)
        elif current in lowering.names:
            scores.add(current)
        elif current in lowering.failed:
            raise NoIntegerFormError("")
        elif current not in lowering.seen.constants:
            fresh = [x for x in current.all_input_nodes if x not in seen and x not in lowering.seen.numbers]
            waiting += fresh
            seen.update(fresh)
    if len(scores) != 1:
        raise NoIntegerFormError(f"its scores come from {len(scores)} tensors on grids" if scores else "its scores are in float")
    return next(iter(scores)), sorted(masks, key=lambda node: str(node.name))


def _affine(lowering: Lowering, between: _Between, shown: dict[Node, Tensor]) -> tuple[float, Tensor]:
    """(slope, bias of one sample), -inf where a score is hidden whatever the input is. shown: masks that hide as little as they can."""
    scores = between.scores()
    zero, one = between(scores, shown), between(between.scores(1.0), shown)
    if zero.numel() != scores.numel():
        raise NoIntegerFormError(_MORE)
    is_hidden = (zero < -_FAR) & ((one - zero).abs() < 1e-6 * zero.abs())
    slopes = (one - zero)[~is_hidden]
    slope = float(slopes.median()) if slopes.numel() else 1.0
    generator = torch.Generator().manual_seed(0)
    other = torch.randint(-3, 4, scores.shape, generator=generator).float()
    wanted = slope * other.double().reshape(zero.shape) + zero
    error = (between(other, shown) - wanted).abs() / (1 + wanted.abs())
    is_sample = torch.equal(zero, zero[:1].expand_as(zero))
    if not (slope > 0 and is_sample) or (slopes.numel() and float(error[~is_hidden].max()) > 1e-3):
        raise NoIntegerFormError(_MORE)
    return slope, zero[0].masked_fill(is_hidden[0], -torch.inf)


def _stored(bias: Tensor, scale: float, reach: int) -> tuple[int, Tensor | None]:
    """(guard, bias in units of scale / 2^guard, along those axes alone in which it differs)."""
    if not bool(bias.any()):
        return 0, None
    is_mask = bool(torch.isinf(bias[bias != 0]).all())
    guard = 0 if is_mask else max(0, min(_GUARD, 28 - reach.bit_length()))
    steps = torch.round(bias / scale * 2.0**guard)
    steps = torch.where(steps < -MOST_BIAS, float(HIDDEN), steps.clamp(max=MOST_BIAS)).long()
    for axis in range(steps.ndim):
        first = steps.narrow(axis, 0, 1)
        steps = first if torch.equal(first.expand_as(steps), steps) else steps
    return guard, steps.contiguous()


def _in_shape(lowering: Lowering, x: Value, target: Target) -> str:
    """The scores in the shape in which the softmax has them."""
    if x.shape == target.shape:
        return x.name
    value = Value(lowering.value_name(f"{target.name}:scores"), target.shape, x.grid, x.scale, x.zero_point)
    return lowering.emit(Reshape(value.name, (x.name,), value.name), value)


def _keep(lowering: Lowering, between: _Between, masks: list[Node], name: str) -> tuple[dict[Node, Tensor], str | None]:
    """(the mask that hides least, the value whose code is 0 where a score is hidden, or None)."""
    generator = torch.Generator().manual_seed(1)
    plain, relevant = between(between.scores(), {}), []
    for mask in masks:
        if mask not in lowering.bounds:
            raise NoIntegerFormError(f"its mask '{mask.meta['name']}' is an input of other numbers than 0 and 1")
        low, high = lowering.bounds[mask]
        drawn = torch.randint(low, high + 1, lowering.seen.shapes[mask], generator=generator)
        ends = [torch.full_like(drawn, end) for end in (low, high)]
        tries = [x.to(lowering.seen.inputs[mask].dtype) for x in (drawn, *ends)]
        if any(not torch.equal(between(between.scores(), {mask: x}), plain) for x in tries):
            relevant.append(mask)
    if not relevant:
        return {}, None
    low, high = lowering.bounds[relevant[0]]
    if len(relevant) > 1 or high - low >= _MOST_VALUES:
        raise NoIntegerFormError("its mask is made of several inputs, or of one with more than 256 values")
    return _of_input(lowering, between, relevant[0], name)


def _of_input(lowering: Lowering, between: _Between, mask: Node, name: str) -> tuple[dict[Node, Tensor], str]:
    """The mask that the input ``mask`` makes."""
    x, shape, dtype = lowering.input(mask), lowering.seen.shapes[mask], lowering.seen.inputs[mask].dtype
    low, high = lowering.bounds[mask]

    def run(codes: Tensor) -> Tensor:
        return between(between.scores(), {mask: codes.to(dtype).expand(shape)})

    made = torch.stack([run(torch.full(shape, code))[0] for code in range(low, high + 1)])
    most = made.amax(0)
    is_hidden = made < most - _FAR
    depends = is_hidden.any(0)
    hides = is_hidden[:, depends]
    is_same = hides.numel() > 0 and bool((hides == hides[:, :1]).all())
    if not is_same or not torch.equal(torch.where(is_hidden, most, made), most.expand_as(made)):
        raise NoIntegerFormError("its mask does more than to hide scores, or differs in what hides them")
    keeps = ~hides[:, 0]
    shown, hidden = (low + int(torch.nonzero(keeps == wanted)[0]) for wanted in (True, False))
    index = torch.zeros(depends.shape, dtype=torch.int64)
    places = torch.arange(x.size).view(x.shape)
    for bit in range(max(1, (x.size - 1).bit_length())):
        is_set = run(torch.where((places >> bit) & 1 == 1, shown, hidden))[0] >= most - _FAR
        index += is_set.long() << bit
    index = torch.where(depends, index, -1)
    drawn = torch.randint(low, high + 1, shape, generator=torch.Generator().manual_seed(2))
    if not torch.equal(run(drawn) >= most - _FAR, keeps[(drawn - low).flatten(1)][:, index.clamp(min=0)] | (index < 0)):
        raise NoIntegerFormError("each of its scores is hidden by more than one entry of the mask")
    every = torch.arange(x.grid.minimum, x.grid.maximum + 1).clamp(low, high) - low
    return {mask: torch.full(shape, shown).to(dtype)}, _moved_mask(lowering, x, keeps[every], index, name)


def _moved_mask(lowering: Lowering, x: Value, keeps: Tensor, index: Tensor, name: str) -> str:
    """The value that the softmax reads as ``keep``; the same one for all softmaxes that hide alike. index: -1 where any entry will do."""
    for axis in range(index.ndim):
        largest = index.amax(axis, keepdim=True)
        index = largest if bool(((index == largest) | (index < 0)).all()) else index
    key = (x.name, tuple(keeps.tolist()), tuple(index.shape), index.clamp(min=0).numpy().tobytes())
    if key not in lowering.masks:
        codes = torch.arange(x.grid.minimum, x.grid.maximum + 1)
        if not torch.equal(keeps, codes != x.zero_point):
            looked_up = Value(lowering.value_name(f"{name}:keep"), x.shape, x.grid, 1.0, x.zero_point)
            table = torch.where(keeps, x.zero_point + (1 if x.zero_point < x.grid.maximum else -1), x.zero_point)
            x = lowering.values[lowering.emit(Lookup(looked_up.name, (x.name,), looked_up.name, table[None]), looked_up)]
        value = Value(lowering.value_name(f"{name}:mask"), tuple(index.shape), x.grid, 1.0, x.zero_point)
        lowering.masks[key] = moved(lowering, x, value, index.clamp(min=0).flatten())
    return lowering.masks[key]
