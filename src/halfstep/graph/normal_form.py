"""One spelling for what PyTorch can say in several ways, so that every later table needs one row.

x @ W, addmm(b, x, W)     W stored, two axes       linear(x, W^T, b)
stack(tensors)                                     concatenation of unsqueezed tensors
cat([x, y])               y without entries        x
x - y                     two tensors              x + (-1) y
addcmul(x, y, z)                                   x + c (y z)
slice_scatter, select_scatter                      concatenation of what stays and what is written there
clamp(x, l, h)            l, h stored              minimum(maximum(x, l), h), or numbers where they hold one each
clamp(x, -1, 1.5)         x of floats              clamp(x, -1.0, 1.5)
adaptive_max_pool2d(x, s) of known sizes           max_pool2d; slices, one for each window, where windows differ in size
conv2d(x)                 x without a batch axis   a batch of one; so every layer and pooling, clips behind it as well
x + 0, x * 1, x[:], x.to(t)  x has that type       x
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.fx import GraphModule, Node

from halfstep.graph.edit import attribute
from halfstep.graph.names import operator_name
from halfstep.graph.operators import argument

aten = torch.ops.aten
_TO_THE_END = 2**63 - 1
_POOLINGS = ("avg", "max", "adaptive_avg")


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


def _call_around(layer: Node, target: Any, *args: Any) -> Node:
    """A new call beside ``layer``, not within the module of PyTorch's own that has its name."""
    made = _call(layer, target, *args)
    stack = list(made.meta.get("nn_module_stack", {}).items())
    if stack and str(stack[-1][1][1]).startswith("torch.nn.modules."):
        made.meta["nn_module_stack"] = dict(stack[:-1])
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


def _bounded(node: Node) -> Node | None:
    """Bounds that are tensors: a clip has one of each for all entries."""
    x: Any = node.args[0]
    low, high = (argument(node, end, None) for end in ("min", "max"))
    numbers = [_number(low, -math.inf), _number(high, math.inf)]
    if not any(math.isnan(number) for number in numbers):
        finite = [number if math.isfinite(number) else None for number in numbers]
        x = x if finite == [None, None] else _call(node, aten.clamp.default, x, *finite)
    else:
        for bound, target in ((low, aten.maximum.default), (high, aten.minimum.default)):
            x = x if bound is None else _call(node, target, x, bound)
    return x if isinstance(x, Node) else None


def _number(bound: Node | None, absent: float) -> float:
    """The value of a bound that is a stored tensor without axes; NaN where it is none."""
    if bound is None:
        return absent
    graph = bound.graph.owning_module
    assert graph is not None
    return float(attribute(graph, bound)) if bound.op == "get_attr" and _value(bound).ndim == 0 else math.nan


def _largest_of_windows(node: Node) -> None:
    """Adaptive max pooling, unless its indices are read: axis by axis where windows differ in size, or overlap."""
    x, results = node.args
    axes = len(results)  # type: ignore[arg-type]
    first = _value(x).ndim - axes
    sizes = _value(x).shape[first:]
    values = [user for user in node.users if user.target is operator.getitem and user.args[1] == 0]
    is_read = any(user not in values and user.users for user in node.users)
    if is_read or not all(isinstance(size, int) for size in sizes):
        return
    pool = getattr(aten, f"max_pool{axes}d").default
    if all(size % result == 0 for size, result in zip(sizes, results, strict=True)):  # type: ignore[arg-type]
        x = _call(node, pool, x, [size // result for size, result in zip(sizes, results, strict=True)])  # type: ignore[arg-type]
    else:
        for axis, (size, result) in enumerate(zip(sizes, results, strict=True)):  # type: ignore[arg-type]
            windows = [(k * size // result, -(-(k + 1) * size // result)) for k in range(result)]
            parts = [_call(node, aten.slice.Tensor, x, first + axis, *window) for window in windows]
            kernels = [[end - start if axis == other else 1 for other in range(axes)] for start, end in windows]
            parts = [_call(node, pool, part, kernel) for part, kernel in zip(parts, kernels, strict=True)]
            x = _call(node, aten.cat.default, parts, first + axis) if result > 1 else parts[0]
    for value in values:
        value.replace_all_uses_with(x)  # type: ignore[arg-type]


def _as_batch_of_one(node: Node) -> Node | None:
    """A layer or pooling on a single image or vector: what treats layers knows the channels of batches."""
    x, name = node.args[0], operator_name(node)
    if _value(x).ndim != (1 if name == "linear" else int(name[-2]) + 1):
        return None
    batch = x.args[0] if _is_single(x) else _call_around(node, aten.unsqueeze.default, x, 0)  # type: ignore[union-attr]
    return _single(node, _call(node, node.target, batch, *node.args[1:], **node.kwargs))


def _within_batch_of_one(node: Node) -> Node | None:
    """A clip behind a layer on a single image stays next to the layer."""
    x = node.args[0]
    if not _is_single(x) or len(x.users) > 1:  # type: ignore[union-attr]
        return None
    return _single(node, _call(node, node.target, x.args[0], *node.args[1:], **node.kwargs))  # type: ignore[union-attr]


def _with_float_bounds(node: Node) -> Node | None:
    """A clamp between an integer and a float, for which PyTorch's exporter has no translation."""
    if _value(node).is_floating_point():
        x, *bounds = node.args
        node.args = (x, *(float(bound) if isinstance(bound, int) else bound for bound in bounds))
        node.kwargs = {key: float(bound) if isinstance(bound, int) else bound for key, bound in node.kwargs.items()}
    return _within_batch_of_one(node)


def _single(node: Node, batch: Node) -> Node:
    return _call_around(node, aten.squeeze.dim, batch, 0)


def _is_single(node: object) -> bool:
    """Whether a tensor is all of a batch of one, without the batch's axis."""
    if not isinstance(node, Node) or str(node.target) != "aten.squeeze.dim":
        return False
    return bool(node.args[1] == 0 and _value(node.args[0]).shape[0] == 1)


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
    **dict.fromkeys(("aten.clamp.Tensor", "aten.clamp_min.Tensor", "aten.clamp_max.Tensor"), _bounded),
    **dict.fromkeys((f"aten.adaptive_max_pool{axes}d.default" for axes in (1, 2, 3)), _largest_of_windows),
    "aten.linear.default": _as_batch_of_one,
    **dict.fromkeys((f"aten.conv{axes}d.{overload}" for axes in (1, 2, 3) for overload in ("default", "padding")), _as_batch_of_one),
    **dict.fromkeys(("aten.conv_transpose1d.default", "aten.conv_transpose2d.input", "aten.conv_transpose3d.input"), _as_batch_of_one),
    **dict.fromkeys((f"aten.{kind}_pool{axes}d.default" for kind in _POOLINGS for axes in (1, 2, 3)), _as_batch_of_one),
    **dict.fromkeys((f"aten.{clip}.default" for clip in ("relu", "relu6", "hardtanh", "clamp_min")), _within_batch_of_one),
    "aten.clamp.default": _with_float_bounds,
    "aten.slice_scatter.default": _written_slice,
    "aten.select_scatter.default": _written_entry,
    **dict.fromkeys(
        ("aten.to.dtype", "aten.to.device", "aten.to.dtype_layout", "aten.to.other", "aten.type_as.default", "aten._to_copy.default"),
        _without_conversion,
    ),
}
