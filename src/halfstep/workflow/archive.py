"""What a ``.pt2`` archive may hold, checked before torch reads it: torch evaluates its size expressions and generates code from its names.

Every string that torch evaluates, imports by, looks up or writes into code is held against a grammar of its own; anything else is refused.
The layout is that of ``torch.export.save`` (torch 2.13: ``models/NAME.json``; up to 2.7: ``serialized_exported_program.json``).
"""

from __future__ import annotations

import io
import json
import keyword
import math
import re
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

from halfstep.errors import ModelError
from halfstep.workflow.size_expressions import SYMBOL, refusal_of

MAX_JSON = 256 << 20
"""Bytes of the largest description of a network that is read."""
_MAX_DEPTH, _MAX_TEXT = 100, 1 << 20
_MAX_GROWTH, _SPARE = 16, 64 << 20  # what may be unpacked: so many times the archive, and so many bytes beside
_PICKLED_OBJECTS = ("custom_obj_", "opaque_obj_")  # how torch.export names them in its archive
_COMPILED = "data/aotinductor/"  # libraries, which torch loads
_PROGRAM = re.compile(r"(?:.*/)?(?:models/[^/]+|serialized_exported_program)\.json")
_PAYLOADS = re.compile(r"(?:.*/)?data/(?:weights|constants)/[^/]+_config\.json")
_CONTAINERS = {"builtins.tuple", "builtins.list", "builtins.dict", "collections.OrderedDict"}
_CONTAINERS |= {f"torch.fx.immutable_collections.immutable_{kind}" for kind in ("list", "dict")}
_FILES = ("from_file", "save")  # ATen operators that touch files
_REGIONS = ("wrap_with_set_grad_enabled", "wrap_with_autocast")
_OPERATOR = re.compile(r"torch\.ops\.aten\.(\w+)\.\w+|torch\.ops\.higher_order\.(\w+)", re.ASCII)
_PYTHON = re.compile(r"_operator\.(\w+)|math\.(trunc|ceil|floor)|torch\.(sym_\w+|_sym_sqrt)", re.ASCII)
_NAMES = "rshift lshift and_ or_ mod gt ge lt le eq ne neg pos truediv floordiv mul add sub pow getitem"
_PYTHON_NAMES = frozenset(_NAMES.split())
_LOOKED_UP = re.compile(r"[A-Za-z_]\w*(\.\w+)*", re.ASCII)

Refuse = Callable[[str], ModelError]


def check_archive(path: Path) -> None:
    """Raise `ModelError` where the archive ``path`` holds anything that could run code, or more than it has bytes for."""

    def refuse(what: str) -> ModelError:
        return ModelError(f"'{path}' {what}: export the network again, or pass the PyTorch network it came from.")

    try:
        with zipfile.ZipFile(path) as archive:
            _check_members(archive, path.stat().st_size, refuse)
            _check_reading(archive, path, refuse)
            programs = [name for name in archive.namelist() if _PROGRAM.fullmatch(name)]
            if not programs:
                raise refuse("holds no network of torch.export")
            for name in programs:
                _Program(refuse).check(_read_json(archive, name, refuse))
            for name in filter(_PAYLOADS.fullmatch, archive.namelist()):
                _check_payloads(archive, name, path.stat().st_size, refuse)
    except (zipfile.BadZipFile, zipfile.LargeZipFile, NotImplementedError, EOFError, OSError, ValueError, LookupError) as error:
        raise refuse(f"is damaged ({str(error) or type(error).__name__})") from error
    except (AttributeError, TypeError) as error:
        raise refuse("describes its network in a form that torch.export does not write") from error
    except (RecursionError, MemoryError) as error:
        raise refuse("is nested deeper, or is larger, than any network is") from error


def _check_members(archive: zipfile.ZipFile, size: int, refuse: Refuse) -> None:
    """Names once each, no pickled objects, no compiled code, nothing that unpacks to much more than ``size`` bytes, inner archives too."""
    names = archive.namelist()
    if len(set(names)) < len(names):
        raise refuse("holds two files of one name")
    if any(mark in name for name in names for mark in _PICKLED_OBJECTS):
        raise refuse("holds pickled Python objects, which can run code when they are read")
    if any(_COMPILED in name for name in names):
        raise refuse("holds compiled code")
    if sum(member.file_size for member in archive.infolist()) > _MAX_GROWTH * size + _SPARE:
        raise refuse("unpacks to far more than it has bytes for")
    for member in archive.infolist():
        if member.filename.endswith(".pt"):
            with archive.open(member) as inner:
                head = inner.read(2)
            if head == b"PK":
                with zipfile.ZipFile(io.BytesIO(archive.read(member))) as found:
                    if sum(part.file_size for part in found.infolist()) > _MAX_GROWTH * member.file_size + _SPARE:
                        raise refuse("unpacks to far more than it has bytes for")


def _check_reading(archive: zipfile.ZipFile, path: Path, refuse: Refuse) -> None:
    """Torch's own reader finds the same files: two readers of a crafted archive may not see different ones."""
    try:
        reader = torch._C.PyTorchFileReader(str(path))
    except RuntimeError:
        return  # no layout of today's: torch, too, goes on with zipfile
    root = archive.namelist()[0].partition("/")[0]
    names = set(archive.namelist())
    for record in reader.get_all_records():
        name = f"{root}/{record}"
        if name not in names or (name.endswith(".json") and reader.get_record(record) != archive.read(name)):
            raise refuse(f"holds a file {_shown(record)} that can be read in two ways")


def _read_json(archive: zipfile.ZipFile, name: str, refuse: Refuse) -> Any:
    if archive.getinfo(name).file_size > MAX_JSON:
        raise refuse(f"describes its network in more than {MAX_JSON >> 20} MB")
    return json.loads(archive.read(name))


def _check_payloads(archive: zipfile.ZipFile, name: str, size: int, refuse: Refuse) -> None:
    """Tensors lie in files of the archive, and take no more memory than the archive has bytes for."""
    folder = name.rpartition("/")[0]
    for path, entry in _read_json(archive, name, refuse)["config"].items():
        if not _is_path(path) or not re.fullmatch(r"\w+", entry["path_name"], re.ASCII):
            raise refuse(f"calls a tensor {_shown(path)}, or its file {_shown(entry['path_name'])}")
        stored = archive.getinfo(f"{folder}/{entry['path_name']}").file_size
        meta = entry["tensor_meta"]
        if meta is None:
            continue
        sizes = [part["as_int"] for part in meta["sizes"]]
        if not all(isinstance(part, int) and part >= 0 for part in sizes):
            raise refuse(f"gives the tensor {_shown(path)} a shape that is none")
        if math.prod(sizes) > (_MAX_GROWTH * size + _SPARE if stored else 0):
            raise refuse(f"gives the tensor {_shown(path)} the shape {sizes}, more than it has bytes for")


class _Program:
    """One description of a network, walked through once."""

    def __init__(self, refuse: Refuse) -> None:
        self._refuse = refuse

    def check(self, program: Any) -> None:
        """Raise where a string in it is not what its place allows."""
        self._walk(program, 0)
        module = program["graph_module"]
        if module.get("treespec_namedtuple_fields"):
            raise self._refuse("returns named tuples, which are types of its own")
        for name in program["range_constraints"]:
            self._demand(SYMBOL.fullmatch(name), "a size", name)
        for entry in module["module_call_graph"]:
            self._demand(not entry["fqn"] or _is_path(entry["fqn"]), "a module", entry["fqn"])
            signature = entry.get("signature")
            if signature is not None:
                self._tree(signature["in_spec"], is_input=True)
                self._tree(signature["out_spec"], is_input=False)
                for name in signature.get("forward_arg_names") or ():
                    self._demand(_is_identifier(name), "an argument", name)

    def _walk(self, value: Any, depth: int) -> None:
        """Every string in ``value``, by the key it stands under."""
        if depth > _MAX_DEPTH:
            raise self._refuse("is nested deeper than any network is")
        if isinstance(value, dict):
            for key, part in value.items():
                self._entry(key, part)
                self._walk(part, depth + 1)
        elif isinstance(value, list):
            for part in value:
                self._walk(part, depth + 1)

    def _entry(self, key: str, value: Any) -> None:
        self._demand(len(key) <= _MAX_TEXT and not (isinstance(value, str) and len(value) > _MAX_TEXT), "something", key)
        if key == "expr_str":
            self._expression(value)
        elif key in ("name", "as_name"):
            self._demand(value in (None, "") or _is_identifier(value), "a value", value)
        elif key in ("parameter_name", "buffer_name", "tensor_constant_name", "user_input_name"):
            self._demand(_is_path(value), "a tensor", value)
        elif key in ("tensor_values", "sym_int_values", "sym_bool_values", "sym_float_values"):
            for name in value:
                self._demand(_is_identifier(name), "a value", name)
        elif key == "target":
            self._demand(_is_operator(value), "an operator", value)
        elif key in ("as_custom_obj", "as_operator", "custom_obj_name", "custom_obj") or (key == "custom_obj_values" and value):
            raise self._refuse("holds Python objects of its own")
        elif key == "metadata":
            self._metadata(value)

    def _expression(self, text: Any) -> None:
        reason = refusal_of(text) if isinstance(text, str) else "it is no text"
        if reason:
            raise self._refuse(f"computes a size as {_shown(text)}, which is not read ({reason})")

    def _metadata(self, found: dict[str, str]) -> None:
        """Types named there are looked up in torch."""
        for entry in filter(None, (found.get("source_fn_stack") or "").split(";")):
            self._demand(_LOOKED_UP.fullmatch(entry.rpartition(",")[2]) is not None, "a function", entry)

    def _tree(self, text: str, is_input: bool) -> None:
        """How inputs or outputs are nested: in built-in containers alone."""
        version, tree = json.loads(text) if text else (1, None)
        self._demand(version == 1, "a structure", version)
        for kind, context in _containers(tree, 0):
            self._demand(kind in _CONTAINERS, "a structure", kind)
            keys = json.loads(context) or []
            is_right = _is_identifier if is_input else _is_key
            self._demand(isinstance(keys, list) and all(is_right(key) for key in keys), "a key", context)

    def _demand(self, is_right: Any, what: str, found: Any) -> None:
        if not is_right:
            raise self._refuse(f"calls {what} {_shown(found)}, which is not read")


def _containers(tree: Any, depth: int) -> Iterator[tuple[Any, str]]:
    """(type, context) of every container of a serialized tree."""
    if tree is None or (tree["type"] is None and tree["context"] is None):
        return
    if depth > _MAX_DEPTH:
        raise RecursionError
    yield tree["type"], tree["context"]
    for child in tree["children_spec"]:
        yield from _containers(child, depth + 1)


def _is_identifier(name: Any) -> bool:
    return isinstance(name, str) and name.isascii() and name.isidentifier() and not keyword.iskeyword(name)


def _is_key(key: Any) -> bool:
    """A key of a dictionary that is returned: it may stand in code, between quotes."""
    return key is None or isinstance(key, (bool, int)) or (isinstance(key, str) and _is_quotable(key))


def _is_path(path: Any) -> bool:
    """A dotted path of a module or tensor; its parts may stand in code, between quotes."""
    return isinstance(path, str) and bool(path) and _is_quotable(path)


def _is_quotable(text: str) -> bool:
    return text.isprintable() and not set(text) & set("\"'\\`{}()") and len(text) <= 1000


def _is_operator(name: Any) -> bool:
    if not isinstance(name, str):
        return False
    if found := _OPERATOR.fullmatch(name):
        return found[1] not in _FILES and (found[2] is None or found[2] in _REGIONS)
    if found := _PYTHON.fullmatch(name):
        return found[1] is None or found[1] in _PYTHON_NAMES
    return False


def _shown(value: Any) -> str:
    """The start of anything, printable."""
    text = ascii(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
