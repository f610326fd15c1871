"""Write a graph as JSON and safetensors, and read it back: no pickle, the same bytes for the same graph.

Operators are written by name ("aten.conv2d.default") and looked up again in ``torch.ops.aten`` or a short list of Python operators, so
that a file can name nothing else. Modules are batch norms, dropouts (constructor arguments) and quantizers (registry name, configuration).
What a file may hold beyond that is checked by `written`: nothing of it becomes code, and nothing is imported for it.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import Graph, GraphModule, Node

from halfstep.errors import GraphError
from halfstep.graph import written
from halfstep.graph.check import check
from halfstep.graph.structure import form_of, return_as
from halfstep.graph.tree import put
from halfstep.grid import Grid
from halfstep.quantizers import QUANTIZERS, AbstractQuantizer, AccumulatorQuantizer

FORMAT = 2
_PYTHON = {
    f"operator.{name}": getattr(operator, name) for name in ("getitem", "add", "sub", "mul", "floordiv", "truediv", "mod", "neg", "pow")
}
_PYTHON |= {"math.ceil": math.ceil, "math.floor": math.floor}
_PYTHON_NAMES = {function: name for name, function in _PYTHON.items()}
_LAYERS: dict[str, type[nn.Module]] = {kind.__name__: kind for kind in (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)}
_LAYERS |= {kind.__name__: kind for kind in (nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d)}
_META = ("name", "is_number")


def to_json(graph: GraphModule) -> dict[str, Any]:
    """The structure of ``graph`` as plain values; its tensors are in ``graph.state_dict()``."""
    return {
        "format": FORMAT,
        "batch_size": graph.meta["batch_size"],
        "notes": list(graph.meta["notes"]),
        "normalized": list(graph.meta["normalized"]),
        "outputs": form_of(graph.graph),
        "names": dict(graph.meta["names"]),
        "modules": {path: _module_to_json(graph, graph.get_submodule(path)) for path in sorted(_called_modules(graph))},
        "attributes": _attribute_kinds(graph),
        "nodes": [_node_to_json(node) for node in graph.graph.nodes],
    }


def from_json(saved: Mapping[str, Any], state: Mapping[str, Tensor]) -> GraphModule:
    """The graph that `to_json` described, with the tensors of ``state``; raises `GraphError` on anything it does not know."""
    if saved.get("format") != FORMAT:
        raise GraphError(
            f"This graph was written in format {saved.get('format')}; this version of halfstep reads format {FORMAT}. "
            "Quantize the network again."
        )
    written.check_graph(saved, state)
    try:
        graph = _graph(saved, state)
    except (KeyError, ValueError, TypeError, AttributeError, RuntimeError) as error:
        raise GraphError(f"The graph in the file cannot be put together: {_first_line(error)}") from error
    check(graph)
    return graph


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def _graph(saved: Mapping[str, Any], state: Mapping[str, Tensor]) -> GraphModule:
    root = nn.Module()
    for path, kind in saved["attributes"].items():
        put(root, path, nn.Parameter(state[path], state[path].is_floating_point()) if kind == "parameter" else state[path])
    described = sorted(saved["modules"].items(), key=lambda item: item[1]["kind"] == AccumulatorQuantizer.name)  # after their sources
    for path, description in described:
        put(root, path, _module_from_json(root, description))
    module = GraphModule(root, _nodes_from_json(saved))
    module.load_state_dict(dict(state), strict=True)
    module.meta = {
        "batch_size": saved["batch_size"],
        **{key: list(saved[key]) for key in ("notes", "normalized")},
        "names": dict(saved["names"]),
    }
    return module.eval()


def _called_modules(graph: GraphModule) -> set[str]:
    return {str(node.target) for node in graph.graph.nodes if node.op == "call_module"}


def _attribute_kinds(graph: GraphModule) -> dict[str, str]:
    """ "parameter" or "buffer" for every tensor that a node reads."""
    parameters = dict(graph.named_parameters())
    paths = [str(node.target) for node in graph.graph.nodes if node.op == "get_attr"]
    return {path: "parameter" if path in parameters else "buffer" for path in paths}


def _module_to_json(graph: GraphModule, module: nn.Module) -> dict[str, Any]:
    if isinstance(module, AccumulatorQuantizer):
        paths = {id(part): path for path, part in graph.named_modules()}
        sources = [paths[id(source)] for source in module.sources]
        return {"kind": module.name, "is_enabled": module.is_enabled, **module.configuration(), "sources": sources}
    if isinstance(module, AbstractQuantizer):
        return {"kind": module.name, "is_enabled": module.is_enabled, **module.configuration()}
    if isinstance(module, nn.modules.dropout._DropoutNd):
        return {"kind": type(module).__name__, "p": module.p}
    assert isinstance(module, nn.modules.batchnorm._BatchNorm)
    names = ("num_features", "eps", "momentum", "affine")
    return {"kind": type(module).__name__, **{name: getattr(module, name) for name in names}}


def _module_from_json(root: nn.Module, description: Mapping[str, Any]) -> nn.Module:
    arguments = dict(description)
    kind = arguments.pop("kind")
    if kind in _LAYERS:
        return _LAYERS[kind](**arguments)
    is_enabled = arguments.pop("is_enabled")
    arguments["grid"] = Grid(**arguments["grid"])
    if "sources" in arguments:
        arguments["sources"] = tuple(root.get_submodule(source) for source in arguments["sources"])
    module = QUANTIZERS[kind](**arguments)
    module.is_enabled = bool(is_enabled)
    return module


def _node_to_json(node: Node) -> dict[str, Any]:
    meta = {key: node.meta[key] for key in _META if key in node.meta}
    if "shape" in node.meta:
        meta |= {"shape": list(node.meta["shape"]), "dtype": str(node.meta["dtype"])}
    target = _function_name(node.target) if node.op == "call_function" else str(node.target)
    return {
        "op": node.op,
        "id": node.name,
        "target": target,
        "args": _value_to_json(node.args),
        "kwargs": {key: _value_to_json(value) for key, value in node.kwargs.items()},
        "meta": meta,
    }


def _function_name(target: Any) -> str:
    if isinstance(target, torch._ops.OpOverload) and target.namespace == "aten":
        return str(target)
    if target in _PYTHON_NAMES:
        return _PYTHON_NAMES[target]
    raise GraphError(f"The operator {target} cannot be saved: it is neither an ATen operator nor one of {', '.join(_PYTHON)}.")


def _function(name: str) -> Callable[..., Any]:
    if name in _PYTHON:
        return _PYTHON[name]  # type: ignore[no-any-return]
    parts = name.split(".")
    overload = getattr(getattr(torch.ops.aten, parts[1], None), parts[2], None) if len(parts) == 3 and parts[0] == "aten" else None
    if not isinstance(overload, torch._ops.OpOverload):
        raise GraphError(f"The file names the operator '{name}', which this version of torch does not have.")
    schema = overload._schema
    if schema.is_mutable or not schema.returns or any(argument.name == "filename" for argument in schema.arguments):
        raise GraphError(f"The file names the operator '{name}', which does more than to compute a value.")
    return overload


def _value_to_json(value: Any) -> Any:
    """Numbers, strings and None stand for themselves; everything else is a one-entry mapping that says what it is."""
    if isinstance(value, Node):
        return {"node": value.name}
    if isinstance(value, (list, tuple)):
        return [_value_to_json(item) for item in value]
    if isinstance(value, dict):
        return {"dict": {key: _value_to_json(item) for key, item in value.items()}}
    if isinstance(value, slice):
        return {"slice": [_value_to_json(part) for part in (value.start, value.stop, value.step)]}
    if isinstance(value, float) and not math.isfinite(value):
        return {"float": str(value)}
    if isinstance(value, (torch.dtype, torch.device, torch.layout, torch.memory_format)):
        return {type(value).__name__: str(value)}
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    raise GraphError(f"An argument of type {type(value).__name__} cannot be saved.")


def _value_from_json(value: Any, nodes: Mapping[str, Node]) -> Any:
    if isinstance(value, list):
        return [_value_from_json(item, nodes) for item in value]
    if not isinstance(value, dict):
        return value
    ((kind, content),) = value.items()
    match kind:
        case "node":
            return nodes[content]
        case "dict":
            return {key: _value_from_json(item, nodes) for key, item in content.items()}
        case "slice":
            return slice(*(_value_from_json(part, nodes) for part in content))
        case "float":
            return float(content)
        case "device":
            return torch.device(content)
    return written.torch_value(kind, content)


def _nodes_from_json(saved: Mapping[str, Any]) -> Graph:
    graph, nodes = Graph(), dict[str, Node]()
    for entry in saved["nodes"]:
        target = _function(entry["target"]) if entry["op"] == "call_function" else entry["target"]
        arguments = tuple(_value_from_json(entry["args"], nodes))
        keywords = {key: _value_from_json(value, nodes) for key, value in entry["kwargs"].items()}
        written.check_keywords(entry["target"], target, keywords)
        node = graph.create_node(entry["op"], target, arguments, keywords, name=entry["id"])
        if node.name != entry["id"]:
            raise GraphError(f"The node '{entry['id']}' cannot have that name.")
        node.meta = dict(entry["meta"])
        if "shape" in node.meta:
            node.meta |= {"shape": tuple(node.meta["shape"]), "dtype": written.torch_value("dtype", node.meta["dtype"])}
        nodes[entry["id"]] = node
    if saved["outputs"] is not None:
        return_as(graph, saved["outputs"])
    return graph


def duplicate(graph: GraphModule) -> GraphModule:
    """A copy that shares no tensor with ``graph``."""
    return _graph(to_json(graph), {name: tensor.detach().clone() for name, tensor in graph.state_dict().items()})
