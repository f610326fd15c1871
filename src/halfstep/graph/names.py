"""The names in a graph: halfstep's own, which reach the code that torch.fx generates, and the user's, which are text.

own name    stands for                                  the user's name
x_0         an input                                    ``node.meta["name"]``
p_0         a parameter                                 ``graph.meta["names"]["p_0"]``, and that of the node that reads it
b_0         any other stored tensor                     likewise
m_0         a module: batch norm, dropout, quantizer    likewise, and that of the node that calls it
conv2d_3    an operator, named by torch after itself    ``node.meta["name"]``

torch.fx writes the paths of attributes and modules and the names of inputs into Python code as they are. A name that came from a file
could be code, a keyword, or the name of a method; so none of them is ever a path. Files, reports, errors and patterns of recipes hold the
user's names.

A node of ``layer1.0.conv1`` is called "layer1.0.conv1"; an operator written straight into a forward, such as the sum at the end of a
residual block, is called after its block and itself, "layer1.0:add"; a module used many times numbers its uses, "layer1.0.relu#2".
"""

from __future__ import annotations

import itertools
import re
from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from typing import Literal

from torch import nn
from torch.fx import GraphModule, Node

from halfstep.errors import visible

Kind = Literal["p", "b", "m"]

_LONGEST = 1000
_OWN = re.compile(r"([xpbm])_(0|[1-9][0-9]{0,8})")
_ONNX_NODE = "halfstep.onnx_import.network.OneOperation"
# Layers of torch.nn that consist of several.
_CONTAINERS = ("torch.nn.modules.container", "torch.nn.modules.module", "torch.nn.modules.transformer", "torch.nn.modules.rnn",
               "torch.nn.modules.activation.MultiheadAttention")  # fmt: skip


class NamedNetwork(nn.Module):
    """A network whose tensors and modules have own names, because the user's are any text.

    names: the user's, by the path of a parameter, buffer or module. input_names: of its inputs, in order.
    """

    names: dict[str, str]
    input_names: tuple[str, ...]


def is_own(name: object, kinds: str) -> bool:
    """Whether ``name`` is one of halfstep's own, of one of the ``kinds``: "x" inputs, "p" parameters, "b" other tensors, "m" modules."""
    match = _OWN.fullmatch(name) if isinstance(name, str) else None
    return match is not None and match[1] in kinds


def own_name(graph: GraphModule, kind: Kind) -> str:
    """A new path for a parameter, another tensor or a module of ``graph``: behind all that there are of its kind."""
    stored: dict[str, Iterable[str]] = {"p": graph._parameters, "b": graph._buffers, "m": graph._modules}
    return f"{kind}_{1 + max((int(path[2:]) for path in stored[kind] if is_own(path, kind)), default=-1)}"


def kind_of(value: object) -> Kind:
    """Of what is stored under an own name."""
    return "m" if isinstance(value, nn.Module) else "p" if isinstance(value, nn.Parameter) else "b"


def stored_name(graph: GraphModule, path: str) -> str:
    """The user's name of the tensor or module at ``path``."""
    return _names(graph).get(path, path)


def set_stored_name(graph: GraphModule, path: str, name: str) -> None:
    """Let the tensor or module at ``path`` be called ``name``, numbered where another of the graph is called so."""
    names = _names(graph)
    names.pop(path, None)
    if name in names.values():
        name = numbered(name, {given for other, given in names.items() if (other[0] == "m") == (path[0] == "m")})
    names[path] = name


def hand_over_name(graph: GraphModule, path: str) -> bool:
    """Free the name of a tensor that goes, for another one to have; whether it still had it."""
    return _names(graph).pop(path, None) is not None


def numbered(name: str, taken: Collection[object], first: int = 1) -> str:
    """``name``, numbered where it is ``taken``: "conv", "conv#2" ... first: the number to begin with."""
    return next(free for free in (name if k == 1 else f"{name}#{k}" for k in itertools.count(first)) if free not in taken)


def as_text(name: str) -> str:
    """A user's name as every file and terminal can show it: of one line, of at most 1,000 characters, and not empty."""
    shown = visible(name).replace("\n", "\\n").replace("\t", "\\t")
    return (shown if len(shown) <= _LONGEST else f"{shown[:_LONGEST]}...") or "unnamed"


def forget_names(graph: GraphModule) -> None:
    """Drop the names of tensors and modules that are gone."""
    stored = {*graph._parameters, *graph._buffers, *graph._modules}
    graph.meta["names"] = {path: name for path, name in _names(graph).items() if path in stored}


def _names(graph: GraphModule) -> dict[str, str]:
    names: dict[str, str] = graph.meta["names"]
    return names


def module_path(node: Node) -> str:
    """The dotted path of the innermost module of the user's that the node was recorded in; "" for the model itself."""
    stack = node.meta.get("nn_module_stack") or {}
    path = next((str(path) for path, _ in reversed(stack.values())), "")
    return "" if not path or path.startswith("_empty_nn_module_stack") else as_text(path)  # what torch writes where it knows of no module


def operator_name(node: Node) -> str:
    """ "conv2d", "add", "BatchNorm2d": what the node does, without overload or namespace.

    A node that does nothing has the name of its kind, such as "get_attr": a parameter may be called "add".
    """
    if node.op == "call_module":
        module = node.graph.owning_module.get_submodule(str(node.target))  # type: ignore[union-attr]
        return type(module).__name__
    if node.op != "call_function":
        return node.op
    schema = getattr(node.target, "_schema", None)
    return str(schema.name.split("::")[1]) if schema is not None else getattr(node.target, "__name__", str(node.target))


def name_nodes(graph: GraphModule, input_names: Sequence[str] = ()) -> None:
    """Set ``node.meta["name"]`` on every node, unique within the graph. input_names: of the inputs, where they are not those of forward."""
    taken: set[str] = set()
    uses: Counter[str] = Counter()
    placeholders = [node for node in graph.graph.nodes if node.op == "placeholder"]
    given = dict(zip(placeholders, map(as_text, input_names), strict=False))
    for node in dict.fromkeys((*placeholders, *graph.graph.nodes)):  # inputs first: others' data go by their names
        base = given.get(node) or _base_name(graph, node)
        uses[base] += 1
        node.meta["name"] = numbered(base, taken, uses[base])
        taken.add(node.meta["name"])


def _base_name(graph: GraphModule, node: Node) -> str:
    if node.op == "placeholder":
        return str(node.meta["name"])
    if node.op in ("get_attr", "call_module"):
        return stored_name(graph, str(node.target))
    if node.op == "output":
        return "output"
    path = module_path(node)
    return path if path and _is_one_operator(node) else f"{path}:{operator_name(node)}".removeprefix(":")


def _is_one_operator(node: Node) -> bool:
    """Whether the node's module is one of torch.nn's own layers, which stand for a single operator."""
    stack = node.meta["nn_module_stack"]
    kind = str(list(stack.values())[-1][1])
    if kind == _ONNX_NODE:  # what it computes is the last of its operators
        return all(module_path(user) != module_path(node) for user in node.users)
    return kind.startswith("torch.nn.modules.") and not kind.startswith(_CONTAINERS)
