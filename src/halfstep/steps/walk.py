"""One pass through the float network and the quantized one together, node by node, with all calibration batches at the same node.

    for node in walk.stops(nodes):      pauses before each of ``nodes`` is computed
        walk.pairs(node.args[0])        what arrives there: (float value, quantized value) of every batch

Whoever uses the walk may change the parameters and quantizers of the quantized network at a stop; what is computed from there on is
computed with them. So every layer can be solved behind the layers that are already quantized, and the whole costs two passes through the
network, whatever its depth.

What is held is little: batches are cut into parts of a few megabytes, which go through a chain of nodes (convolution, ReLU, quantizer) one
after the other; only the value at the end of a chain is held, behind a quantizer of at most 8 bits as its codes; a part is dropped after
its last use. Values beyond ``memory`` bytes are kept in unnamed files, which the system pages in and out.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass
from math import prod
from typing import Any

import torch
from torch import Tensor
from torch.fx import GraphModule, Node
from torch.fx.node import map_arg

from halfstep import parallel
from halfstep.errors import CalibrationError
from halfstep.graph.edges import quantizer_of
from halfstep.graph.run import cut
from halfstep.graph.units import data_nodes
from halfstep.steps.shelf import NARROW_BITS, Pair, Shelf, narrow, opened

MEMORY = 4 << 30
_GROUP_SIZE = 128  # samples: large enough that what is done once a group (adding up moments) hardly counts
_PART_BYTES = 16 << 20  # of the largest value: small enough for the allocator to use the same memory again, part after part


@dataclass(frozen=True)
class _Stage:
    """One node of a chain, with the constants it reads. is_same: whether both networks do the same there."""

    node: Node
    twin: Node
    constants: dict[Node, Any]
    float_constants: dict[Node, Any]
    is_same: bool


class Walk:
    """graph: the quantized network. reference: its float twin, node for node. batches: the calibration inputs.

    with_activations: whether activations are quantized on the way. is_shared: whether the batches are shared out over processes (else
    every process walks with all of them). memory: bytes of values held before files are used.
    """

    def __init__(
        self,
        graph: GraphModule,
        reference: GraphModule,
        batches: Iterable[tuple[Tensor, ...]],
        *,
        with_activations: bool = True,
        is_shared: bool = False,
        memory: int = MEMORY,
    ) -> None:
        self.graph, self.reference = graph, reference
        self._with_activations = with_activations
        self._twins: dict[Node, Node] = dict(zip(graph.graph.nodes, reference.graph.nodes, strict=True))
        self._with_data = data_nodes(graph)
        self._num_users = Counter(source for node in self._with_data for source in node.all_input_nodes if source in self._with_data)
        self._shelf = Shelf(memory)
        self._values: dict[Node, list[Pair | None]] = {}
        self.part_indices: list[int] = []
        self.groups: list[int] = []
        self.num_samples = 0  # of all processes
        self._num_real: list[int] = []
        self._num_run: list[int] = []
        self._load(batches, is_shared)

    @property
    def peak_bytes(self) -> int:
        """The most bytes of values that were held at once."""
        return self._shelf.peak_bytes

    def stops(self, nodes: Collection[Node]) -> Iterator[Node]:
        """Go through the network, pausing before each of ``nodes``."""
        chain: list[Node] = []
        for node in self.graph.graph.nodes:
            if node in nodes:
                self._compute(chain)
                chain = []
                yield node
            if node not in self._with_data or node.op in ("placeholder", "output"):
                continue
            if chain and not self._continues(chain[-1], node):
                self._compute(chain)
                chain = []
            chain.append(node)
        self._compute(chain)

    def pairs(self, node: Node) -> Iterator[Pair]:
        """The values of ``node``, part by part (`part_indices`, and several are one of `groups`), real samples only."""
        for pair, real, run in zip(self._values[node], self._num_real, self._num_run, strict=True):
            yield Pair(*(_first(value, real, run) for value in opened(pair)))

    def twin(self, node: Node) -> Node:
        """The node of the float network that stands where ``node`` stands in the quantized one."""
        return self._twins[node]

    def constant(self, node: Node, is_float: bool = False) -> Any:
        """The value of a node that does not depend on the data (a weight, a quantized weight, a bias) in either network."""
        return self._constant(self._twins[node] if is_float else node, self.reference if is_float else self.graph)

    def _load(self, batches: Iterable[tuple[Tensor, ...]], is_shared: bool) -> None:
        placeholders = [node for node in self.graph.graph.nodes if node.op == "placeholder"]
        self._values = {node: [] for node in placeholders}
        device = next((parameter.device for parameter in self.graph.parameters()), torch.device("cpu"))
        for index, (group, inputs, num_real) in enumerate(self._parts(batches)):
            if is_shared and group % parallel.num_processes() != parallel.index():
                continue
            self.part_indices.append(index)
            self.groups.append(group)
            self._num_real.append(num_real)
            self._num_run.append(len(inputs[0]))
            for node, x in zip(placeholders, inputs, strict=True):
                held = self._shelf.keep(x.to(device))
                self._values[node].append(Pair(held, held))
        if not self.part_indices:
            raise CalibrationError("The calibration data are empty: give at least one batch of inputs for each process.")
        self.num_samples = sum(parallel.collect(sum(self._num_real))) if is_shared else sum(self._num_real)

    def _parts(self, batches: Iterable[tuple[Tensor, ...]]) -> Iterator[tuple[int, tuple[Tensor, ...], int]]:
        """(number of the group, inputs, how many samples of them are real)."""
        size = _part_size(self._with_data)
        groups = (group for merged in _merged(batches) for group in cut(self.graph, merged))
        for index, (inputs, num_real) in enumerate(groups):
            if self.graph.meta.get("batch_size") is not None:
                yield index, inputs, num_real
                continue
            for part in zip(*(x.split(size) for x in inputs), strict=True):
                yield index, part, len(part[0])

    def _continues(self, last: Node, node: Node) -> bool:
        """Whether ``node`` alone reads ``last``, and nothing else that depends on the data."""
        return self._num_users[last] == 1 and self._sources(node) == [last]

    def _sources(self, node: Node) -> list[Node]:
        return [source for source in node.all_input_nodes if source in self._with_data]

    def _compute(self, chain: list[Node]) -> None:
        """The values at the end of ``chain``, part by part."""
        if not chain:
            return
        stages, sources = [self._stage(node) for node in chain], self._sources(chain[0])
        for source in sources:
            self._num_users[source] -= 1

        def at_the_end(index: int) -> Pair:
            arriving = {source: opened(self._values[source][index]) for source in sources}
            for stage in stages[:-1]:
                arriving = {stage.node: self._pair(stage, arriving)}
            return self._pair(stages[-1], arriving, is_held=True)

        results: list[Pair | None] = []
        with torch.no_grad():
            for index, pair in enumerate(parallel.each(at_the_end, range(len(self.part_indices)))):
                results.append(self._shelf.keep_pair(pair))
                for source in sources:
                    if self._num_users[source] == 0:
                        self._shelf.drop(self._values[source][index])
                        self._values[source][index] = None
        self._values[chain[-1]] = results
        for source in sources:
            if self._num_users[source] == 0:
                del self._values[source]

    def _stage(self, node: Node) -> _Stage:
        twin = self._twins[node]
        constants = {source: self.constant(source) for source in node.all_input_nodes if source not in self._with_data}
        float_constants = {self._twins[source]: self.constant(source, is_float=True) for source in constants}
        return _Stage(node, twin, constants, float_constants, self._is_same(node))

    def _pair(self, stage: _Stage, arriving: dict[Node, Pair], is_held: bool = False) -> Pair:
        """What the stage makes of one part in both networks; to be held, codes stand for what leaves a quantizer."""
        exact = {self._twins[source]: pair.float for source, pair in arriving.items()}
        value = _call(stage.twin, self.reference, (stage.float_constants | exact).__getitem__)
        if stage.is_same and all(pair.float is pair.quantized for pair in arriving.values()):
            return Pair(value, value)
        rounded = {source: pair.quantized for source, pair in arriving.items()}
        return Pair(value, self._quantized(stage.node, (stage.constants | rounded).__getitem__, is_held))

    def _quantized(self, node: Node, load: Callable[[Node], Any], is_held: bool) -> Any:
        if self._is_passed_over(node):
            return load(node.all_input_nodes[0])
        quantizer = quantizer_of(node)
        if is_held and quantizer is not None and quantizer.is_enabled and quantizer.grid.bits <= NARROW_BITS:
            return narrow(quantizer.quantize(load(node.all_input_nodes[0])))
        return _call(node, self.graph, load)

    def _is_passed_over(self, node: Node) -> bool:
        """Whether the node quantizes an activation and activations stay in float here."""
        return not self._with_activations and quantizer_of(node) is not None

    def _is_same(self, node: Node) -> bool:
        """Whether both networks do the same at this node."""
        quantizer = quantizer_of(node)
        if quantizer is not None and quantizer.is_enabled and self._with_activations:
            return False
        constants = [source for source in node.all_input_nodes if source not in self._with_data]
        return all(_is_equal(self.constant(source), self.constant(source, is_float=True)) for source in constants)

    def _constant(self, node: Node, graph: GraphModule) -> Any:
        with torch.no_grad():
            return _call(node, graph, lambda source: self._constant(source, graph))


def _part_size(nodes: Iterable[Node]) -> int:
    """Samples a part, by the largest value that one sample has on its way."""
    shapes = [node.meta["shape"] for node in nodes if node.meta.get("shape")]
    largest = max((4 * prod(size for size in shape[1:] if size is not None) for shape in shapes), default=1)
    return max(1, min(_GROUP_SIZE, _PART_BYTES // max(largest, 1)))


def _merged(batches: Iterable[tuple[Tensor, ...]]) -> Iterator[tuple[Tensor, ...]]:
    """The same inputs in groups of at least `_GROUP_SIZE` samples, but for the last."""
    held: list[tuple[Tensor, ...]] = []
    for inputs in batches:
        held.append(inputs)
        if sum(len(part[0]) for part in held) >= _GROUP_SIZE:
            yield tuple(torch.cat(parts) for parts in zip(*held, strict=True))
            held = []
    if held:
        yield tuple(torch.cat(parts) for parts in zip(*held, strict=True))


def _call(node: Node, graph: GraphModule, load: Callable[[Node], Any]) -> Any:
    if node.op == "get_attr":
        return getattr(graph, str(node.target))
    args, kwargs = map_arg(node.args, load), map_arg(node.kwargs, load)
    target: Any = graph.get_submodule(str(node.target)) if node.op == "call_module" else node.target
    return target(*args, **kwargs)


def _is_equal(value: Any, other: Any) -> bool:
    return torch.equal(value, other) if isinstance(value, Tensor) else bool(value == other)


def _first(value: Any, num_real: int, num_run: int) -> Any:
    """The part of a value that belongs to real samples, where a batch was filled up to the size the network was captured with."""
    if num_real == num_run or not isinstance(value, Tensor) or value.ndim == 0:
        return value
    return value[: len(value) * num_real // num_run]
