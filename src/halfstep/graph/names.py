"""The user's own name for every node of a graph.

A node of ``layer1.0.conv1`` is called "layer1.0.conv1"; an operator written straight into a forward, such as the sum at the end of a
residual block, is called after its block and itself, "layer1.0:add"; a module used many times numbers its uses, "layer1.0.relu#2".
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from torch.fx import GraphModule, Node

_ONNX_NODE = "halfstep.onnx_import.network.OneOperation"
# Layers of torch.nn that consist of several.
_CONTAINERS = ("torch.nn.modules.container", "torch.nn.modules.module", "torch.nn.modules.transformer", "torch.nn.modules.rnn",
               "torch.nn.modules.activation.MultiheadAttention")  # fmt: skip


def module_path(node: Node) -> str:
    """The dotted path of the innermost module of the user's that the node was recorded in; "" for the model itself."""
    stack = node.meta.get("nn_module_stack") or {}
    path = next((str(path) for path, _ in reversed(stack.values())), "")
    return "" if path.startswith("_empty_nn_module_stack") else path  # what torch writes where it knows of no module


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
    uses: Counter[str] = Counter()
    placeholders = [node for node in graph.graph.nodes if node.op == "placeholder"]
    given = dict(zip(placeholders, input_names, strict=False))
    for node in graph.graph.nodes:
        base = given.get(node) or _base_name(node)
        uses[base] += 1
        node.meta["name"] = base if uses[base] == 1 else f"{base}#{uses[base]}"


def _base_name(node: Node) -> str:
    if node.op in ("placeholder", "get_attr", "call_module"):
        return str(node.target)
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
