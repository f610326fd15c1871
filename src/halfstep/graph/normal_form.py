"""One spelling for what PyTorch can say in several ways, so that every later table needs one row.

x @ W, addmm(b, x, W)     W stored, two axes       linear(x, W^T, b)
stack(tensors)                                     concatenation of unsqueezed tensors
cat([x, y])               y without entries        x
x - y                     two tensors              x + (-1) y
addcmul(x, y, z)                                   x + c (y z)
slice_scatter, select_scatter                      concatenation of what stays and what is written there
x + 0, x * 1, x[:], x.to(t)  x has that type       x
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.fx import GraphModule, Node

aten = torch.ops.aten
_TO_THE_END = 2**63 - 1


def normalize(graph: GraphModule) -> None:
    """Rewrite every node that has another normal form, in place."""
    for node in list(graph.graph.nodes):
        rewrite = _REWRITES.get(str(node.target)) if node.op == "call_function" else None
        if rewrite is None:
            continue
        with graph.graph.inserting_before(node):
            replacement = rewrite(node)
        if replacement is not None:
            node.replace_all_uses_with(replacement)
            graph.graph.erase_node(node)


def _call(like: Node, target: Any, *args: Any, **kwargs: Any) -> Node:
    """A new call in the user's module of ``like``; its value is computed on the shapes alone."""
    made = like.graph.call_function(target, args, kwargs)
    made.meta = {key: like.meta[key] for key in ("nn_module_stack",) if key in like.meta}
    made.meta["val"] = target(*torch.fx.node.map_arg(args, lambda x: x.meta["val"]), **kwargs)
    return made


def _is_stored_matrix(node: object) -> bool:
    return isinstance(node, Node) and node.op == "get_attr" and _value(node).ndim == 2


def _value(node: Any) -> Tensor:
    value = node.meta["val"]
    assert isinstance(value, Tensor)
    return value


def _product(node: Node) -> Node | None:
    x, weight = node.args[:2]
    if not _is_stored_matrix(weight) or not isinstance(x, Node) or x.op == "get_attr" or _value(x).ndim < 2:
        return None
    return _call(node, aten.linear.default, x, _call(node, aten.t.default, weight))


def _product_and_sum(node: Node) -> Node | None:
    bias, x, weight = node.args
    is_bias = isinstance(bias, Node) and bias.op == "get_attr" and _value(bias).ndim == 1
    if node.kwargs or not is_bias or not _is_stored_matrix(weight):
        return None
    return _call(node, aten.linear.default, x, _call(node, aten.t.default, weight), bias)


def _stack(node: Node) -> Node:
    tensors, axis = (*node.args, 0)[:2]
    axis = axis % _value(node).ndim  # type: ignore[operator]
    parts = [_call(node, aten.unsqueeze.default, x, axis) for x in tensors]  # type: ignore[union-attr]
    return _call(node, aten.cat.default, parts, axis)


def _without_empty_parts(node: Node) -> Node | None:
    parts, axis = (*node.args, 0)[:2]
    filled = [x for x in parts if 0 not in [size for size in _value(x).shape if isinstance(size, int)]]  # type: ignore[union-attr]
    if not filled or len(filled) == len(parts):  # type: ignore[arg-type]
        return None
    return _call(node, aten.cat.default, filled, axis) if len(filled) > 1 else filled[0]  # type: ignore[return-value]


def _difference(node: Node) -> Node | None:
    first, second = node.args[:2]
    if not (isinstance(first, Node) and isinstance(second, Node)) or node.kwargs or not _value(node).is_floating_point():
        return None
    if _value(first).dtype != _value(second).dtype:
        return None
    return _call(node, aten.add.Tensor, first, second, alpha=-1)


def _sum_of_product(node: Node) -> Node:
    x, first, second = node.args
    product = _call(node, aten.mul.Tensor, first, second)
    factor = node.kwargs.get("value", 1)
    return _call(node, aten.add.Tensor, x, product) if factor == 1 else _call(node, aten.add.Tensor, x, product, alpha=factor)


def _written_slice(node: Node) -> Node | None:
    """Of neighbouring entries of an axis of known size."""
    defaults = (0, None, None, 1)
    base, part, axis, start, end, step = node.args + defaults[len(node.args) - 2 :]
    size = _value(base).shape[axis]  # type: ignore[index]
    if step != 1 or not all(isinstance(bound, (int, type(None))) for bound in (start, end)) or not isinstance(size, int):
        return None
    first, last, _ = slice(start, end).indices(size)
    return _written(node, base, part, int(axis), first, last)  # type: ignore[arg-type]


def _written_entry(node: Node) -> Node | None:
    base, part, axis, index = node.args
    size = _value(base).shape[axis]  # type: ignore[index]
    if not isinstance(index, int) or not isinstance(size, int):
        return None
    row = _call(node, aten.unsqueeze.default, part, axis)
    return _written(node, base, row, int(axis), index % size, index % size + 1)  # type: ignore[arg-type]


def _written(node: Node, base: Node, part: Node, axis: int, first: int, last: int) -> Node | None:
    """``base`` with the entries first .. last of an axis replaced by ``part``."""
    if _value(base).dtype != _value(part).dtype:
        return None
    size = int(_value(base).shape[axis])
    before = [_call(node, aten.slice.Tensor, base, axis, 0, first)] if first > 0 else []
    after = [_call(node, aten.slice.Tensor, base, axis, last, size)] if last < size else []
    return _call(node, aten.cat.default, [*before, part, *after], axis) if before or after else part


def _without(neutral: int) -> Callable[[Node], Node | None]:
    """Adding 0 or multiplying by 1, from either side."""

    def rewrite(node: Node) -> Node | None:
        others = [x for x in node.args[:2] if isinstance(x, (int, float)) and x == neutral]
        x = next((x for x in node.args[:2] if isinstance(x, Node)), None)
        is_same = x is not None and isinstance(x.meta["val"], Tensor) and _value(x).dtype == _value(node).dtype
        return x if others and is_same else None

    return rewrite


def _without_slice(node: Node) -> Node | None:
    defaults = (None, 0, None, None, 1)
    x, _, start, end, step = node.args + defaults[len(node.args) :]
    assert isinstance(x, Node)
    return x if start in (None, 0) and end in (None, _TO_THE_END) and step == 1 else None


def _without_conversion(node: Node) -> Node | None:
    x = node.args[0]
    assert isinstance(x, Node)
    return x if _value(x).dtype == _value(node).dtype else None


_REWRITES: dict[str, Callable[[Node], Node | None]] = {
    **dict.fromkeys(("aten.matmul.default", "aten.mm.default"), _product),
    "aten.addmm.default": _product_and_sum,
    "aten.stack.default": _stack,
    "aten.cat.default": _without_empty_parts,
    "aten.slice.Tensor": _without_slice,
    "aten.add.Tensor": _without(0),
    "aten.mul.Tensor": _without(1),
    "aten.sub.Tensor": _difference,
    "aten.addcmul.default": _sum_of_product,
    "aten.slice_scatter.default": _written_slice,
    "aten.select_scatter.default": _written_entry,
    **dict.fromkeys(
        ("aten.to.dtype", "aten.to.device", "aten.to.dtype_layout", "aten.to.other", "aten.type_as.default", "aten._to_copy.default"),
        _without_conversion,
    ),
}
