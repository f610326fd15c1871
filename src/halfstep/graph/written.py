"""What a graph in a file may hold, checked before anything is made of it.

torch.fx writes paths, names of inputs and of arguments into Python code as they are. So paths are halfstep's own (`graph.names`), names of
arguments are those of the operator, and every value has one of the types below.
"""

from __future__ import annotations

import keyword
import re
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from halfstep.errors import GraphError
from halfstep.graph.names import is_own

_DEEPEST = 64  # lists within lists
_SMALL = 1 << 16  # a number in a module's description that needs no tensor of that size
_OPERATOR = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,127}")
_TARGETS = {"placeholder": "x", "get_attr": "pb", "call_module": "m"}
_ENTRY = {"op": str, "id": str, "target": str, "args": list, "kwargs": dict, "meta": dict}
_PARTS = {"notes": list, "normalized": list, "names": dict, "modules": dict, "attributes": dict, "nodes": list}
_KINDS = {"dtype": torch.dtype, "layout": torch.layout, "memory_format": torch.memory_format}
_PLAIN = (bool, int, float, str, type(None))


def check_graph(saved: Mapping[str, Any], state: Mapping[str, Tensor]) -> None:
    """Raises `GraphError` that says which part of a file's graph has no known form."""
    for part, kind in _PARTS.items():
        _demand(isinstance(saved.get(part), kind), f"'{part}' is missing or no {kind.__name__}")
    _demand("outputs" in saved and "batch_size" in saved, "'outputs' or 'batch_size' is missing")
    size = saved["batch_size"]
    _demand(size is None or (type(size) is int and size > 0), "'batch_size' is no number of samples")
    _demand(_are_text([*saved["notes"], *saved["normalized"]]), "'notes' or 'normalized' hold other things than text")
    _demand(_are_text(saved["names"].values()), "'names' hold other things than text")
    for path in saved["names"]:
        _demand(is_own(path, "pbm"), f"'{path}' is no path of halfstep's")
    for path, kind in saved["attributes"].items():
        _demand(is_own(path, "p" if kind == "parameter" else "b" if kind == "buffer" else ""), f"'{path}' is no path of halfstep's")
        _demand(path in state, f"the weights of '{saved['names'].get(path, path)}' are missing")
    for path, description in saved["modules"].items():
        _demand(is_own(path, "m"), f"'{path}' is no path of halfstep's")
        _check_module(path, description, state)
    _check_nodes(saved)


def _check_module(path: str, description: Any, state: Mapping[str, Tensor]) -> None:
    _demand(isinstance(description, dict) and isinstance(description.get("kind"), str), f"the module '{path}' is not described")
    largest = max([_SMALL, *(tensor.numel() for name, tensor in state.items() if name.startswith(f"{path}."))])
    grid = description.get("grid", {})
    _demand(isinstance(grid, dict) and all(isinstance(x, (int, type(None))) for x in grid.values()), f"the module '{path}' has no grid")
    for key, value in description.items():
        _check_value(value, _DEEPEST, f"module '{path}', '{key}'")
        is_size = type(value) is int and key.startswith("num_")
        _demand(not is_size or 0 <= value <= largest, f"the module '{path}' has {value} channels, its tensors have not")


def _check_nodes(saved: Mapping[str, Any]) -> None:
    known: set[str] = set()
    for place, entry in enumerate(saved["nodes"]):
        is_last = place == len(saved["nodes"]) - 1
        _demand(isinstance(entry, dict), f"node {place} is not described")
        for key, kind in _ENTRY.items():
            _demand(isinstance(entry.get(key), kind), f"node {place} has no '{key}'")
        op, own, target = entry["op"], entry["id"], entry["target"]
        is_name = _OPERATOR.fullmatch(own) is not None and not keyword.iskeyword(own) and own != "self" and own not in known
        _demand(is_name, f"node {place} has no name of its own")
        _demand((op == "output") == is_last and (op in _TARGETS or op in ("call_function", "output")), f"node '{own}' is a '{op}'")
        if op in _TARGETS:
            _demand(is_own(target, _TARGETS[op]), f"node '{own}' has the target '{target}', which is no path of halfstep's")
            _demand(op == "placeholder" or target in saved["modules" if op == "call_module" else "attributes"], f"there is no '{target}'")
            _demand(op == "call_module" or not (entry["args"] or entry["kwargs"]), f"node '{own}' takes arguments")
        for key, value in (("args", entry["args"]), *entry["kwargs"].items()):
            _check_value(value, _DEEPEST, f"node '{own}', '{key}'", known)
        _check_meta(own, entry["meta"])
        known.add(own)
    _demand(bool(saved["nodes"]), "there are no nodes")


def _check_meta(own: str, meta: Mapping[str, Any]) -> None:
    _demand(isinstance(meta.get("name"), str) and bool(meta["name"]), f"node '{own}' has no name")
    _demand(set(meta) <= {"name", "is_number", "shape", "dtype"}, f"node '{own}' holds more than its name and shape")
    if "shape" in meta:
        is_shape = isinstance(meta["shape"], list) and all(size is None or (type(size) is int and size >= 0) for size in meta["shape"])
        _demand(is_shape, f"node '{own}' has no shape")
        torch_value("dtype", meta.get("dtype"))


def _check_value(value: Any, deepest: int, where: str, nodes: set[str] | None = None) -> None:
    """An argument; of a node, or of a module where there are no ``nodes``."""
    _demand(deepest > 0, f"{where}: lists within lists within lists")
    if isinstance(value, list):
        for item in value:
            _check_value(item, deepest - 1, where, nodes)
    elif isinstance(value, dict) and nodes is None:
        _demand(_are_text(value), f"{where}: a key is no text")
        for item in value.values():
            _check_value(item, deepest - 1, where)
    elif isinstance(value, dict):
        _demand(len(value) == 1, f"{where}: {len(value)} kinds of one value")
        ((kind, content),) = value.items()
        _check_kind(kind, content, deepest, where, nodes or set())
    else:
        _demand(isinstance(value, _PLAIN), f"{where}: a {type(value).__name__}")


def _check_kind(kind: str, content: Any, deepest: int, where: str, nodes: set[str]) -> None:
    if kind == "node":
        _demand(isinstance(content, str) and content in nodes, f"{where}: '{content}' is no earlier node")
    elif kind == "slice":
        _demand(isinstance(content, list) and len(content) == 3, f"{where}: a slice has three parts")
        _check_value(content, deepest - 1, where, nodes)
    elif kind == "dict":
        _demand(isinstance(content, dict) and _are_text(content), f"{where}: no dictionary")
        for item in content.values():
            _check_value(item, deepest - 1, where, nodes)
    elif kind == "float":
        _demand(content in ("inf", "-inf", "nan"), f"{where}: no number")
    elif kind == "device":
        _demand(isinstance(content, str) and re.fullmatch(r"[a-z]+(:[0-9]{1,3})?", content), f"{where}: no device")
    else:
        torch_value(kind, content)


def torch_value(kind: str, content: Any) -> Any:
    """ "torch.float32" and the like as torch's own value; raises `GraphError` for anything else."""
    value = getattr(torch, content.removeprefix("torch."), None) if isinstance(content, str) else None
    _demand(kind in _KINDS and isinstance(value, _KINDS[kind]), f"an argument of unknown kind '{kind}'")
    return value


def check_keywords(name: str, function: Any, keywords: Iterable[str]) -> None:
    """Raises `GraphError` where a call gives its operator arguments by names that it does not have."""
    schema = getattr(function, "_schema", None)
    own = () if schema is None else [argument.name for argument in schema.arguments]
    for given in keywords:
        _demand(given in own, f"the operator '{name}' has no argument '{given}'")


def _are_text(values: Iterable[Any]) -> bool:
    return all(isinstance(value, str) for value in values)


def _demand(holds: object, otherwise: str) -> None:
    if not holds:
        raise GraphError(f"The graph in the file has no form that halfstep knows: {otherwise}.")
