"""Functions that networks write out in parts, put together again.

    GELU            x/2 (1 + erf(x / sqrt 2)), or x/2 (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3)))       however it is written
    SiLU            x sigmoid(x)
    QuickGELU       x sigmoid(1.702 x)                                                                as silu(1.702 x) / 1.702
    hard swish      x relu6(x + 3) / 6
    mish            x tanh(log(1 + exp(x)))
    RMS norm        x rsqrt(mean(x^2) + eps) w, or x / sqrt(mean(x^2) + eps) w                        over the last axis, w stored or 1

As parts each of them would be put on a grid of its own (a product of two tensors is a merge of two grids), and lose far more than the
function as a whole. Functions of one tensor are known by their values, not by how they are written: the operators that lead from one tensor
to a product or a quotient are run on numbers from -8 to 8, and some far beyond, and must agree with the function within 1e-5 everywhere.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.fx import GraphModule, Node
from torch.fx.node import map_arg

from halfstep.graph.edit import finish
from halfstep.graph.names import operator_name

aten = torch.ops.aten

_NAMES = "add sub rsub mul div pow square neg exp log log1p erf tanh sigmoid hardsigmoid softplus relu relu6 hardtanh clamp"
_ENTRYWISE = frozenset(_NAMES.split())
_MOST_PARTS = 16
_TOLERANCE = 1e-5  # parts of a function in float32 differ by some 1e-6 for numbers up to 8
_QUICK = 1.702


def fuse(graph: GraphModule) -> None:
    """Replace every function that is written out in parts, in place; nodes still carry the values that torch.export recorded."""
    for node in list(graph.graph.nodes):
        if node.op != "call_function" or operator_name(node) not in ("mul", "div"):
            continue
        with graph.graph.inserting_before(node):
            whole = _rms_norm(node) or _scaled_norm(node) or _function(node)
        if whole is not None:
            node.replace_all_uses_with(whole)
            graph.graph.erase_node(node)
    finish(graph)


def _call(like: Node, target: Any, *args: Any, **kwargs: Any) -> Node:
    """A new call in the user's module of ``like``."""
    made = like.graph.call_function(target, args, kwargs)
    made.meta = {key: value for key, value in like.meta.items() if key in ("nn_module_stack", "val")}
    return made


def _function(node: Node) -> Node | None:
    """A function of one tensor that ends in a product or quotient of tensors."""
    parts = _parts(node)
    if parts is None:
        return None
    x, inner = parts
    found = _values(node, x, inner)
    return next((write(node, x) for exact, write in _FUNCTIONS if _is_close(found, exact(_numbers()))), None)


def _numbers() -> Tensor:
    far = torch.tensor([12.0, 20.0, 50.0, 100.0, 1000.0])
    return torch.cat([-far, torch.linspace(-8, 8, 1001), far])


def _is_close(found: Tensor | None, exact: Tensor) -> bool:
    return found is not None and found.shape == exact.shape and bool(((found - exact).abs() <= _TOLERANCE * exact.abs().clamp(min=1)).all())


def _quick_gelu(node: Node, x: Node) -> Node:
    wide = _call(node, aten.silu.default, _call(node, aten.mul.Tensor, x, _QUICK))
    return _call(node, aten.mul.Tensor, wide, 1 / _QUICK)


_FUNCTIONS: list[tuple[Callable[[Tensor], Tensor], Callable[[Node, Node], Node]]] = [
    (torch.nn.functional.gelu, lambda node, x: _call(node, aten.gelu.default, x)),
    (lambda x: torch.nn.functional.gelu(x, approximate="tanh"), lambda node, x: _call(node, aten.gelu.default, x, approximate="tanh")),
    (torch.nn.functional.silu, lambda node, x: _call(node, aten.silu.default, x)),
    (lambda x: x * torch.sigmoid(_QUICK * x), _quick_gelu),
    (torch.nn.functional.hardswish, lambda node, x: _call(node, aten.hardswish.default, x)),
    (torch.nn.functional.mish, lambda node, x: _call(node, aten.mish.default, x)),
]
"""What is looked for, and how it is written in one operator or a chain of them."""


def _parts(node: Node) -> tuple[Node, set[Node]] | None:
    """(x, the operators from it to ``node``, that one included), where ``node`` brings two results of one tensor x together.

    It may multiply what brings them together by a number.
    """
    inner, waiting = {node}, set(node.all_input_nodes)
    product = next(iter(waiting), node)
    if len(waiting) == 1 and len(product.users) == 1 and len(product.all_input_nodes) == 2 and _is(product, "mul"):
        inner, waiting = {node, product}, set(product.all_input_nodes)
    order = {other: place for place, other in enumerate(node.graph.nodes)} if len(waiting) > 1 else {}
    while len(waiting) > 1:
        last = max(waiting, key=order.__getitem__)
        if last.op != "call_function" or operator_name(last) not in _ENTRYWISE or len(inner) == _MOST_PARTS:
            return None
        waiting.remove(last)
        waiting.update(last.all_input_nodes)
        inner.add(last)
    x = next(iter(waiting), None)
    is_whole = x is not None and len(inner) > 1 and _value(x).shape == _value(node).shape and _value(x).is_floating_point()
    return (x, inner) if is_whole and x is not None else None


def _values(node: Node, x: Node, inner: set[Node]) -> Tensor | None:
    """What the parts make of the numbers; None where they cannot be run on them."""
    found: dict[Node, Any] = {x: _numbers()}
    for part in [part for part in node.graph.nodes if part in inner]:
        args, kwargs = map_arg((part.args, part.kwargs), lambda other: found[other])
        found[part] = part.target(*args, **kwargs)
    result = found[node]
    return result if isinstance(result, Tensor) else None


def _rms_norm(node: Node) -> Node | None:
    """The quotient x / sqrt(mean(x^2) + eps)."""
    for x, other in ((node.args[0], node.args[1]), (node.args[1], node.args[0])):
        if not isinstance(x, Node) or not isinstance(other, Node) or (operator_name(node) == "div" and x is node.args[1]):
            continue
        root = "sqrt" if operator_name(node) == "div" else "rsqrt"
        total = _input(other, root)
        epsilon = total.args[1] if _is(total, "add") and total is not None and len(total.args) > 1 else None
        mean = total.args[0] if isinstance(epsilon, float) and total is not None else None
        if _is_mean_square(mean, x) and isinstance(epsilon, float):
            return _call(node, aten.rms_norm.default, x, [_value(x).shape[-1]], None, epsilon)
    return None


def _is_mean_square(mean: object, x: Node) -> bool:
    """Whether a value is the mean of x^2 over the last axis, which stays."""
    if not isinstance(mean, Node) or str(mean.target) != "aten.mean.dim":
        return False
    square, is_over_the_last = mean.args[0], list(mean.args[1:3]) in ([[-1], True], [[_value(x).ndim - 1], True])
    if not isinstance(square, Node) or not isinstance(_value(x).shape[-1], int) or not is_over_the_last:
        return False
    is_power = str(square.target) == "aten.pow.Tensor_Scalar" and square.args[1] in (2, 2.0)
    is_product = _is(square, "mul") and square.args[1] is x
    return square.args[0] is x and (is_power or is_product or _is(square, "square"))


def _scaled_norm(node: Node) -> Node | None:
    """A norm without weights of its own, times a stored vector."""
    for norm, weight in ((node.args[0], node.args[1]), (node.args[1], node.args[0])):
        is_stored = isinstance(weight, Node) and weight.op == "get_attr"
        if operator_name(node) != "mul" or not _is(norm, "rms_norm") or not is_stored:
            continue
        assert isinstance(norm, Node) and isinstance(weight, Node)
        if norm.args[2] is None and len(norm.users) == 1 and list(_value(weight).shape) == norm.args[1]:
            return _call(node, aten.rms_norm.default, norm.args[0], norm.args[1], weight, norm.args[3])
    return None


def _is(node: object, name: str) -> bool:
    return isinstance(node, Node) and node.op == "call_function" and operator_name(node) == name


def _input(node: Node, name: str) -> Node | None:
    """What an operator of that name reads; None for another one."""
    source = node.args[0] if _is(node, name) else None
    return source if isinstance(source, Node) else None


def _value(node: Node) -> Tensor:
    value = node.meta["val"]
    assert isinstance(value, Tensor)
    return value
