"""How large a file becomes once its functions are written out: counted before they are."""

from __future__ import annotations

from collections.abc import Iterable

from onnx import ModelProto, NodeProto

from halfstep.errors import ModelError

MAX_NODES = 1 << 18
"""Nodes of the largest network that is read; those of language models have some ten thousand."""
_MAX_DEPTH = 100

Key = tuple[str, str, str]


def check_size_inlined(proto: ModelProto, where: str) -> None:
    """Raise `ModelError` where functions call themselves, are nested deeply or make more than `MAX_NODES` nodes."""
    _Counter(proto, where).nodes(proto.graph.node, 0)


class _Counter:
    def __init__(self, proto: ModelProto, where: str) -> None:
        self._functions = {(found.domain, found.name, found.overload): found for found in proto.functions}
        self._where, self._counts, self._open = where, dict[Key, int](), set[Key]()

    def nodes(self, nodes: Iterable[NodeProto], depth: int) -> int:
        """How many nodes these become, those of their subgraphs among them."""
        if depth > _MAX_DEPTH:
            raise ModelError(f"'{self._where}' nests functions or graphs more than {_MAX_DEPTH} deep: export it without them.")
        count = 0
        for node in nodes:
            count += self._of(node, depth)
            if count > MAX_NODES:
                raise ModelError(
                    f"'{self._where}' has more than {MAX_NODES:,} nodes once its functions are written out: export it without them."
                )
        return count

    def _of(self, node: NodeProto, depth: int) -> int:
        key = (node.domain, node.op_type, node.overload)
        graphs = [graph for attribute in node.attribute for graph in (attribute.g, *attribute.graphs)]
        inner = sum(self.nodes(graph.node, depth + 1) for graph in graphs)
        return inner + (self._of_function(key, depth) if key in self._functions else 1)

    def _of_function(self, key: Key, depth: int) -> int:
        if key in self._open:
            raise ModelError(f"The function '{key[1]}' of '{self._where}' calls itself: export the network without it.")
        if key not in self._counts:
            self._open.add(key)
            self._counts[key] = self.nodes(self._functions[key].node, depth + 1)
            self._open.remove(key)
        return self._counts[key]
