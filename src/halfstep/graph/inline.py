"""Take the regions apart that torch.export records as one operator: ``with torch.no_grad()`` and ``with torch.autocast(enabled=False)``.

In an exported network they change nothing; what is in them is put where the region stood.
"""

from __future__ import annotations

import operator
from typing import Any

from torch.fx import GraphModule, Node

from halfstep.errors import ModelError
from halfstep.graph.names import as_text, kind_of, own_name, set_stored_name
from halfstep.graph.recorded import copied
from halfstep.graph.tree import at, put

_REGIONS = ("wrap_with_set_grad_enabled", "wrap_with_autocast")


def inline_regions(module: GraphModule) -> None:
    """Replace every region in ``module`` by its content, in place; `ModelError` for one that computes in another precision."""
    for node in list(module.graph.nodes):
        if node.op == "call_function" and getattr(node.target, "__name__", "") in _REGIONS:
            _inline(module, node)


def _inline(module: GraphModule, node: Node) -> None:
    place = next(index for index, x in enumerate(node.args) if isinstance(x, Node) and _submodule(module, x) is not None)
    region = _submodule(module, node.args[place])
    assert region is not None
    if getattr(node.target, "__name__", "") == "wrap_with_autocast" and node.args[2]:
        raise ModelError(
            f"A part of the network runs under autocast in {node.args[1] or 'another precision'} ('{node.name}'). "
            "Pass it without torch.autocast: halfstep quantizes the float32 network."
        )
    region.meta.setdefault("names", {})
    inline_regions(region)
    known: dict[Node, Any] = dict(zip((n for n in region.graph.nodes if n.op == "placeholder"), node.args[place + 1 :], strict=True))
    with module.graph.inserting_before(node):
        for inner in region.graph.nodes:
            if inner.op == "get_attr":
                stored = at(region, str(inner.target))
                path = own_name(module, kind_of(stored))
                put(module, path, stored)
                set_stored_name(module, path, as_text(str(inner.target)))
                known[inner] = module.graph.get_attr(path)
                known[inner].meta = dict(inner.meta)
            elif inner.op not in ("placeholder", "output"):
                known[inner] = copied(module.graph, inner, known)
    (results,) = next(n for n in region.graph.nodes if n.op == "output").args
    for user in list(node.users):
        assert user.target is operator.getitem and isinstance(results, (tuple, list))
        user.replace_all_uses_with(known[results[user.args[1]]])  # type: ignore[index]
        module.graph.erase_node(user)
    module.graph.erase_node(node)


def _submodule(module: GraphModule, node: Any) -> GraphModule | None:
    value = at(module, str(node.target)) if isinstance(node, Node) and node.op == "get_attr" else None
    return value if isinstance(value, GraphModule) else None
