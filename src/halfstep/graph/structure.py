"""How a network's outputs are put together, in a form of halfstep's own: no type of the user's is named in a file or imported from one.

form                             stands for
"*"                              a tensor, or another value
{"tuple": [...]}                 a tuple, and any type of the user's that does not name its parts
{"list": [...]}                  a list
{"dict": [[key, ...], ...]}      a dictionary
{"named": [[name, ...], ...]}    a named tuple, a dataclass, a ``ModelOutput`` of transformers: comes back as `Named`
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, final

from torch.fx import Graph
from torch.fx.graph import _PyTreeCodeGen, _PyTreeInfo
from torch.utils import _pytree as pytree

from halfstep.errors import GraphError

_DEEPEST = 64  # levels of one structure


@final
class Named(tuple):  # type: ignore[type-arg]  # noqa: SLOT001 - it has a dictionary, for its names
    """Values in order, each with a name: ``outputs[0]``, ``outputs["logits"]`` and ``outputs.logits`` are the same."""

    _names: tuple[str, ...]

    @classmethod
    def of(cls, names: Iterable[str], values: Iterable[Any]) -> Named:
        """One name for each value."""
        made = cls(values)
        made._names = tuple(names)
        return made

    def keys(self) -> tuple[str, ...]:
        """The names."""
        return self._names

    def __getitem__(self, key: Any) -> Any:
        return super().__getitem__(self._names.index(key) if isinstance(key, str) and key in self._names else key)

    def __getattr__(self, name: str) -> Any:
        names = self.__dict__.get("_names", ())
        if name not in names:
            raise AttributeError(f"The outputs have no '{name}'. Their names: {', '.join(names)}.")
        return self[names.index(name)]


def _flatten(named: Named) -> tuple[list[Any], tuple[str, ...]]:
    return list(named), named.keys()


def _flatten_with_keys(named: Named) -> tuple[list[tuple[pytree.KeyEntry, Any]], tuple[str, ...]]:
    return [(pytree.MappingKey(name), value) for name, value in zip(named.keys(), named, strict=True)], named.keys()


pytree.register_pytree_node(
    Named, _flatten, lambda values, names: Named.of(names, values), serialized_type_name="halfstep.Named",
    flatten_with_keys_fn=_flatten_with_keys,
)  # fmt: skip


def described(spec: pytree.TreeSpec) -> Any:
    """The form above of what torch recorded."""
    if spec.is_leaf():
        return "*"
    parts = [described(part) for part in _children(spec)]
    if spec.type in (tuple, list):
        return {spec.type.__name__: parts}
    names = _names(spec)
    is_text = all(isinstance(name, str) for name in names)
    if len(names) != len(parts) or not (is_text or all(isinstance(name, (str, int)) for name in names)):
        return {"tuple": parts}
    pairs = [[name, part] for name, part in zip(names, parts, strict=True)]
    is_mapping = isinstance(spec.type, type) and issubclass(spec.type, dict) and spec.type.__module__ in ("builtins", "collections")
    return {"dict" if is_mapping or not is_text else "named": pairs}


_LEAF = object()


def spec_of(form: Any) -> pytree.TreeSpec:
    """What torch makes of the form; raises `GraphError` where it is none."""
    return pytree.tree_structure(_instance(form, _DEEPEST))


def _children(spec: pytree.TreeSpec) -> list[pytree.TreeSpec]:
    return list(spec.children() if hasattr(spec, "children") else spec.children_specs)  # before torch 2.10


def _names(spec: pytree.TreeSpec) -> list[Any]:
    """Of the parts, as far as the type has told torch: keys, fields."""
    context = spec.context
    if isinstance(context, type):  # a named tuple
        return list(getattr(context, "_fields", ()))
    names = list(context) if isinstance(context, (list, tuple)) else []
    whole = next((part for part in names if isinstance(part, (list, tuple))), None)
    return names if whole is None else list(whole)  # of a dataclass, and of those fields that are None; of a dictionary with defaults


def _instance(form: Any, deepest: int) -> Any:
    if form == "*":
        return _LEAF
    if not isinstance(form, dict) or len(form) != 1 or deepest == 0:
        raise GraphError("The file describes outputs that are put together in no known way.")
    ((kind, parts),) = form.items()
    match kind:
        case "tuple" | "list" if isinstance(parts, list):
            values = [_instance(part, deepest - 1) for part in parts]
            return values if kind == "list" else tuple(values)
        case "dict" if _are_pairs(parts, (str, int)):
            return {key: _instance(part, deepest - 1) for key, part in parts}
        case "named" if _are_pairs(parts, (str,)):
            return Named.of([name for name, _ in parts], [_instance(part, deepest - 1) for _, part in parts])
    raise GraphError("The file describes outputs that are put together in no known way.")


def _are_pairs(parts: Any, kinds: tuple[type, ...]) -> bool:
    pairs = isinstance(parts, list) and all(isinstance(pair, list) and len(pair) == 2 and isinstance(pair[0], kinds) for pair in parts)
    return pairs and len({pair[0] for pair in parts}) == len(parts)


def return_as(graph: Graph, form: Any) -> None:
    """Let ``graph`` take its inputs one by one, and put its outputs together in this form; `GraphError` where it does not fit."""
    names = [str(node.target) for node in graph.nodes if node.op == "placeholder"]
    spec, outputs = spec_of(form), next(node for node in graph.nodes if node.op == "output").args[0]
    if not isinstance(outputs, (list, tuple)) or spec.num_leaves != len(outputs):
        raise GraphError(f"The file describes {spec.num_leaves} outputs; its graph has another number.")
    graph.set_codegen(_PyTreeCodeGen(_PyTreeInfo(names, pytree.tree_structure(((0,) * len(names), {})), spec)))


def form_of(graph: Graph) -> Any:
    """How the outputs of ``graph`` are put together; None where it returns its one output as it is."""
    codegen = graph._codegen
    return described(codegen.pytree_info.out_spec) if isinstance(codegen, _PyTreeCodeGen) and codegen.pytree_info.out_spec else None
