"""One pass through the float network and the quantized one together, node by node, with all calibration batches at the same node.

    for node in walk.stops(nodes):      pauses before each of ``nodes`` is computed
        walk.pairs(node.args[0])        what arrives there: (float value, quantized value) of every batch

Whoever uses the walk may change the parameters and quantizers of the quantized network at a stop; what is computed from there on is
computed with them. So every layer can be solved behind the layers that are already quantized, and the whole costs two passes through the
network, whatever its depth. A value is dropped after its last use. Values beyond ``memory`` bytes are kept in unnamed files, which the
system pages in and out.
"""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.fx import GraphModule, Node
from torch.fx.node import map_arg

from halfstep import parallel
from halfstep.errors import CalibrationError
from halfstep.graph.edges import quantizer_of
from halfstep.graph.run import cut
from halfstep.graph.units import data_nodes

MEMORY = 4 << 30
_BATCH_SIZE = 128  # large enough that what is done once a batch (adding up moments) hardly counts


class Pair(NamedTuple):
    """The same tensor in the float network (x) and behind the quantized layers (x̂); one object while they are equal."""

    float: Any
    quantized: Any


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
        self._shelf = _Shelf(memory)
        self._values: dict[Node, list[Pair]] = {}
        self.batch_indices: list[int] = []
        self._num_real: list[int] = []
        self._num_run: list[int] = []
        self._load(batches, is_shared)

    @property
    def peak_bytes(self) -> int:
        """The most bytes of values that were held at once."""
        return self._shelf.peak_bytes

    def stops(self, nodes: Collection[Node]) -> Iterator[Node]:
        """Go through the network, pausing before each of ``nodes``."""
        for node in self.graph.graph.nodes:
            if node in nodes:
                yield node
            if node in self._with_data and node.op not in ("placeholder", "output"):
                self._compute(node)

    def pairs(self, node: Node) -> list[Pair]:
        """The values of ``node``, batch by batch, real samples only."""
        return [
            Pair(*(_first(value, real, run) for value in pair))
            for pair, real, run in zip(self._values[node], self._num_real, self._num_run, strict=True)
        ]

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
        parts = (part for inputs in _merged(batches) for part in cut(self.graph, inputs))
        for index, (inputs, num_real) in enumerate(parts):
            if is_shared and index % parallel.num_processes() != parallel.index():
                continue
            self.batch_indices.append(index)
            self._num_real.append(num_real)
            self._num_run.append(len(inputs[0]))
            for node, x in zip(placeholders, inputs, strict=True):
                held = self._shelf.keep(x.to(device))
                self._values[node].append(Pair(held, held))
        if not self.batch_indices:
            raise CalibrationError("The calibration data are empty: give at least one batch of inputs for each process.")

    def _compute(self, node: Node) -> None:
        twin, is_same = self._twins[node], self._is_same(node)
        constants = {source: self.constant(source) for source in node.all_input_nodes if source not in self._with_data}
        float_constants = {self._twins[source]: self.constant(source, is_float=True) for source in constants}
        sources = [source for source in node.all_input_nodes if source in self._with_data]
        results = []
        with torch.no_grad():
            for index in range(len(self.batch_indices)):
                arriving = {source: self._values[source][index] for source in sources}
                exact = {self._twins[source]: pair.float for source, pair in arriving.items()}
                value = self._shelf.keep(_call(twin, self.reference, (float_constants | exact).__getitem__))
                if is_same and all(pair.float is pair.quantized for pair in arriving.values()):
                    results.append(Pair(value, value))
                    continue
                rounded = {source: pair.quantized for source, pair in arriving.items()}
                results.append(Pair(value, self._shelf.keep(self._quantized(node, (constants | rounded).__getitem__))))
        self._values[node] = results
        self._release(sources)

    def _quantized(self, node: Node, load: Callable[[Node], Any]) -> Any:
        if self._is_passed_over(node):
            return load(node.all_input_nodes[0])
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

    def _release(self, sources: list[Node]) -> None:
        for source in sources:
            self._num_users[source] -= 1
            if self._num_users[source] == 0:
                for pair in self._values.pop(source):
                    self._shelf.drop(pair)


def _merged(batches: Iterable[tuple[Tensor, ...]]) -> Iterator[tuple[Tensor, ...]]:
    """The same inputs in fewer, larger batches."""
    held: list[tuple[Tensor, ...]] = []
    for inputs in batches:
        held.append(inputs)
        if sum(len(part[0]) for part in held) >= _BATCH_SIZE:
            yield tuple(torch.cat(parts) for parts in zip(*held, strict=True))
            held = []
    if held:
        yield tuple(torch.cat(parts) for parts in zip(*held, strict=True))


def _call(node: Node, graph: GraphModule, load: Callable[[Node], Any]) -> Any:
    if node.op == "get_attr":
        parent, _, leaf = str(node.target).rpartition(".")
        return getattr(graph.get_submodule(parent), leaf)
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


class _Shelf:
    """Counts the bytes of the tensors held; those beyond the limit are moved to files that have lost their names."""

    def __init__(self, limit: int) -> None:
        self.limit, self.num_bytes, self.peak_bytes = limit, 0, 0

    def keep(self, value: Any) -> Any:
        """The value, or an equal one in a file."""
        if not isinstance(value, Tensor):
            return value
        if self.num_bytes + value.nbytes > self.limit and value.device.type == "cpu" and value.nbytes:
            return _in_file(value)
        self.num_bytes += value.nbytes
        self.peak_bytes = max(self.peak_bytes, self.num_bytes)
        return value

    def drop(self, pair: Pair) -> None:
        """Both values are used no more."""
        for value in {id(value): value for value in pair if isinstance(value, Tensor)}.values():
            if not hasattr(value, "is_in_file"):
                self.num_bytes -= value.nbytes


def _in_file(value: Tensor) -> Tensor:
    """A copy of ``value``, laid out alike, in a file without a name: gone with the tensor, or with the process."""
    dense = value if value.is_contiguous() or value.is_contiguous(memory_format=torch.channels_last) else value.contiguous()
    with tempfile.NamedTemporaryFile(prefix="halfstep-") as file:
        stored = torch.from_file(str(Path(file.name)), shared=True, size=dense.numel(), dtype=dense.dtype)
    copy = stored.as_strided(dense.shape, dense.stride()).copy_(dense)
    copy.is_in_file = True  # type: ignore[attr-defined]
    return copy
