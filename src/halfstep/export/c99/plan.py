"""The static memory plan: which tensors share memory, and where in one block ("the arena") each of them lies.

Tensors that have the same bytes (a reshape) are one buffer, and an entry-by-entry operator writes over an input that is not read again.
Inputs and outputs lie where the caller has them, constants in read-only memory. Buffers that are alive at the same step must not overlap:
greedy placement by size, lifetime and start in turn, each at the lowest free place; then swaps until the arena is as small as the largest
set of tensors alive at one time, or a number of trials is used up.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from halfstep.export.c99.emitters import Step
from halfstep.export.c99.layout import Place
from halfstep.export.c99.steps import emitter

_NUM_TRIALS = 300
_MOST_TRIED_BUFFERS = 400  # beyond, placements in the three greedy orders alone


@dataclass(frozen=True)
class Buffer:
    """num_bytes of memory from step ``first`` to step ``last``, both included."""

    num_bytes: int
    first: int
    last: int

    def meets(self, other: Buffer) -> bool:
        """Whether both are alive at some step."""
        return self.first <= other.last and other.first <= self.last

    @property
    def alignment(self) -> int:
        """Of its offset: large buffers begin at cache lines, at a cost below one part in 32."""
        return max(1, min(64, 1 << max(0, (self.num_bytes // 32).bit_length() - 1)))


@dataclass
class _Memory:
    """place: "arena", "constant", ("input", index) or ("output", index). tensors: all places that share it."""

    where: str | tuple[str, int]
    num_bytes: int
    first: int
    last: int
    holds_output: bool = False


@dataclass(frozen=True)
class MemoryPlan:
    """where: every place lies. offsets: of those in the arena. scratch: offsets, one a step. in_place, is_alias: of each step."""

    where: Mapping[Place, str | tuple[str, int]]
    offsets: Mapping[Place, int]
    scratch: tuple[int, ...]
    scratch_bytes: tuple[int, ...]
    in_place: tuple[int | None, ...]
    is_alias: tuple[bool, ...]
    live_bytes: tuple[int, ...]
    arena_bytes: int

    @property
    def largest_live_set(self) -> int:
        """Bytes of the tensors and scratch memory in the arena that are alive at one step, at most: no plan can do with less."""
        return max(self.live_bytes, default=0)


def plan_memory(steps: Sequence[Step], inputs: Sequence[Place], outputs: Sequence[Place]) -> MemoryPlan:
    """inputs, outputs: row-major, in the order of the program; an output that is listed twice lies at its first place."""
    walk = _Sharing(steps, list(inputs), list(outputs))
    for index, step in enumerate(steps):
        walk.visit(index, step)
    memories = list({id(memory): memory for memory in walk.memory.values() if memory.where == "arena"}.values())
    scratch = [emitter(step).scratch_bytes(step) for step in steps]
    buffers = [Buffer(memory.num_bytes, memory.first, memory.last) for memory in memories]
    buffers += [Buffer(size, index, index) for index, size in enumerate(scratch) if size]
    live = tuple(sum(b.num_bytes for b in buffers if b.first <= index <= b.last) for index in range(len(steps)))
    found, size = arrange(buffers, max(live, default=0))
    places = iter(found[len(memories) :])
    by_memory = {id(memory): offset for memory, offset in zip(memories, found, strict=False)}
    return MemoryPlan(
        where={place: memory.where for place, memory in walk.memory.items()},
        offsets={place: by_memory[id(memory)] for place, memory in walk.memory.items() if memory.where == "arena"},
        scratch=tuple(next(places) if size else 0 for size in scratch),
        scratch_bytes=tuple(scratch), in_place=tuple(walk.in_place), is_alias=tuple(walk.is_alias), live_bytes=live, arena_bytes=size,
    )  # fmt: skip


@dataclass
class _Sharing:
    """Decides, step by step, which tensors are one buffer."""

    steps: Sequence[Step]
    inputs: list[Place]
    outputs: list[Place]
    memory: dict[Place, _Memory] = field(default_factory=dict)
    in_place: list[int | None] = field(default_factory=list)
    is_alias: list[bool] = field(default_factory=list)
    last_use: dict[Place, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for index, step in enumerate(self.steps):
            self.last_use.update(dict.fromkeys(step.inputs, index))
        for index, place in enumerate(self.inputs):
            self.memory[place] = _Memory(("input", index), place.num_bytes, -1, len(self.steps))

    def visit(self, index: int, step: Step) -> None:
        is_alias, in_place = False, None
        if step.kind == "constant":
            self.memory[step.output] = self._new(step.output, index, "constant")
        elif emitter(step).is_alias(step) and self._may_join(step.output, self.memory[step.inputs[0]]):
            is_alias = True
            self._join(step.output, self.memory[step.inputs[0]])
        else:
            in_place = next((i for i in emitter(step).in_place(step) if self._may_take_over(index, step, i)), None)
            if in_place is None:
                self.memory[step.output] = self._new(step.output, index, "arena")
            else:
                self._join(step.output, self.memory[step.inputs[in_place]])
        self.in_place.append(in_place)
        self.is_alias.append(is_alias)

    def _new(self, place: Place, index: int, where: str) -> _Memory:
        last = max(index, self.last_use.get(place, index))
        if place in self.outputs and where != "constant":
            return _Memory(("output", self.outputs.index(place)), place.num_bytes, index, len(self.steps), True)
        return _Memory(where, place.num_bytes, index, last)

    def _may_join(self, place: Place, memory: _Memory) -> bool:
        """An output has to lie in the caller's memory; nothing else may lie there already."""
        return place not in self.outputs or (memory.where == "arena" and not memory.holds_output)

    def _may_take_over(self, index: int, step: Step, which: int) -> bool:
        memory = self.memory[step.inputs[which]]
        is_writable = memory.where == "arena" and memory.last == index and not memory.holds_output
        is_shared = any(self.memory[x] is memory for i, x in enumerate(step.inputs) if i != which)
        return is_writable and not is_shared

    def _join(self, place: Place, memory: _Memory) -> None:
        memory.last = max(memory.last, self.last_use.get(place, memory.last))
        if place in self.outputs:
            memory.where, memory.holds_output = ("output", self.outputs.index(place)), True
        self.memory[place] = memory


def arrange(buffers: Sequence[Buffer], least: int) -> tuple[list[int], int]:
    """(offset of each buffer, bytes of the arena). least: no arrangement is smaller; the search ends there."""
    numbers = range(len(buffers))
    orders = [
        sorted(numbers, key=lambda i: (-buffers[i].num_bytes, buffers[i].first)),
        sorted(numbers, key=lambda i: (-(buffers[i].last - buffers[i].first), -buffers[i].num_bytes)),
        sorted(numbers, key=lambda i: (buffers[i].first, -buffers[i].num_bytes)),
    ]
    neighbours = [[j for j in numbers if j != i and buffers[i].meets(buffers[j])] for i in numbers]
    tried = [(_arrange(buffers, order, neighbours), order) for order in orders]
    (offsets, size), order = min(tried, key=lambda entry: entry[0][1])
    rng = random.Random(0)
    for _ in range(_NUM_TRIALS if 2 < len(buffers) <= _MOST_TRIED_BUFFERS else 0):
        if size <= least:
            break
        changed = list(order)
        one, other = rng.sample(numbers, 2)
        changed[one], changed[other] = changed[other], changed[one]
        found, needed = _arrange(buffers, changed, neighbours)
        if needed <= size:
            offsets, size, order = found, needed, changed
    return offsets, size


def _arrange(buffers: Sequence[Buffer], order: Sequence[int], neighbours: Sequence[Sequence[int]]) -> tuple[list[int], int]:
    """Each in turn at the lowest place where it fits between those it meets."""
    offsets = [-1] * len(buffers)
    size = 0
    for index in order:
        buffer, at = buffers[index], 0
        taken = sorted((offsets[j], offsets[j] + buffers[j].num_bytes) for j in neighbours[index] if offsets[j] >= 0)
        for start, end in taken:
            if at + buffer.num_bytes <= start:
                break
            at = max(at, -(-end // buffer.alignment) * buffer.alignment)
        offsets[index] = at
        size = max(size, at + buffer.num_bytes)
    return offsets, size
