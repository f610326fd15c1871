"""Objects named on the command line: ``package.module:name`` and ``path/file.py:name``.

A module is looked for in the current folder first, then where Python looks anyway. A file is loaded under a private name, with its folder
searched first for as long as it is being loaded, or called by `call_object`. ``name`` may be dotted: ``file.py:Nets.small``.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import os
import sys
import traceback
import zlib
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

from halfstep.errors import HalfstepError, did_you_mean

FORMS = "Write it as 'package.module:name' or 'path/file.py:name'."


def import_object(spec: str, error: type[HalfstepError]) -> Any:
    """The object ``spec`` names, not called.

    Raises ``error`` where the module, file or attribute does not exist, or where importing it raises.
    """
    where, name = split_spec(spec, error)
    with searched_first(folder_of(where)):
        return find_attribute(load_module(where, error), name, where, error)


def call_object(spec: str, error: type[HalfstepError]) -> Any:
    """What the callable that ``spec`` names returns, called without arguments; an object that is no callable is returned itself.

    Raises ``error`` as `import_object` does, and where the call raises.
    """
    found = import_object(spec, error)
    if not callable(found):
        return found
    where, _ = split_spec(spec, error)
    with searched_first(folder_of(where)):
        try:
            return found()
        except HalfstepError:
            raise
        except (Exception, SystemExit) as raised:
            way_out = f"Call it once in Python to see where: {spec.rpartition(':')[2]}()"
            raise error(f"Calling '{spec}' without arguments raised {describe(raised)}. {way_out}.") from raised


def split_spec(spec: str, error: type[HalfstepError]) -> tuple[str, str]:
    """``"a.b:c"`` -> ("a.b", "c"); the last colon counts, so that drive letters are kept."""
    where, colon, name = spec.rpartition(":")
    if not colon or not where or not all(part.isidentifier() for part in name.split(".")):
        raise error(f"'{spec}' does not name a Python object. {FORMS}")
    is_module = all(part.isidentifier() for part in where.split("."))
    if not where.endswith(".py") and not is_module:
        raise error(f"'{where}' in '{spec}' is neither a module nor a .py file. {FORMS}")
    return where, name


def folder_of(where: str) -> Path:
    """The folder searched first: that of the file, else the current one."""
    return Path(where).resolve().parent if where.endswith(".py") else Path.cwd()


@contextlib.contextmanager
def searched_first(folder: Path) -> Iterator[None]:
    """``sys.path`` with ``folder`` in front, and without it afterwards."""
    entry = str(folder)
    sys.path.insert(0, entry)
    try:
        yield
    finally:
        with contextlib.suppress(ValueError):  # the imported code may have removed it
            sys.path.remove(entry)


def load_module(where: str, error: type[HalfstepError]) -> ModuleType:
    """The module ``a.b.c`` or the file ``path/file.py``, imported."""
    if where.endswith(".py"):
        return load_file(Path(where), error)
    importlib.invalidate_caches()
    try:
        return importlib.import_module(where)
    except ModuleNotFoundError as missing:
        if missing.name is not None and (where == missing.name or where.startswith(missing.name + ".")):
            raise error(f"There is no module '{missing.name}' to import '{where}' from. {FORMS} Searched from {Path.cwd()}.") from None
        raise error(import_failed(where, missing)) from missing
    except (Exception, SystemExit) as raised:
        raise error(import_failed(where, raised)) from raised


def load_file(path: Path, error: type[HalfstepError]) -> ModuleType:
    """The file as a module with a private name, loaded again only after it changed."""
    if not path.is_file():
        raise error(f"There is no file {path}. {near_files(path, ('.py',))}")
    stat = path.stat()
    key = f"{path.resolve()}:{stat.st_mtime_ns}:{stat.st_size}"
    name = f"_halfstep_{path.stem.replace('-', '_')}_{zlib.crc32(os.fsencode(key)):08x}"
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None and spec.loader is not None  # the suffix is .py
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException as raised:
        del sys.modules[name]
        if isinstance(raised, (Exception, SystemExit)):
            raise error(import_failed(str(path), raised)) from raised
        raise
    return module


def find_attribute(module: ModuleType, name: str, where: str, error: type[HalfstepError]) -> Any:
    """``module.name``, following dots."""
    found: Any = module
    for part in name.split("."):
        try:
            found = getattr(found, part)
        except AttributeError:
            raise error(f"'{where}' has no '{name}'. {near_names(part, found)}") from None
    return found


def near_names(part: str, owner: Any) -> str:
    """The end of an error on a missing attribute: the closest public name, else those that the module defines itself, else all."""
    public = [name for name in dir(owner) if not name.startswith("_")]
    sentence = did_you_mean(part, public)
    if sentence.startswith("Did you mean"):
        return sentence
    module = getattr(owner, "__name__", None)
    own = [name for name in public if getattr(getattr(owner, name, None), "__module__", None) == module]
    return did_you_mean(part, own or public)


def import_failed(where: str, raised: BaseException) -> str:
    """The sentence for code that raised while it was imported."""
    way_out = "Install that module" if isinstance(raised, ModuleNotFoundError) else "Mend it"
    return f"Importing '{where}' raised {describe(raised)}. {way_out}, then try again."


def describe(raised: BaseException) -> str:
    """Type, message and place of an exception, on one line; the place is the deepest in code of the user's own."""
    message = " ".join(str(raised).split()).rstrip(".")
    text = f"{type(raised).__name__}: {message}" if message else type(raised).__name__
    own = [frame for frame in traceback.extract_tb(raised.__traceback__) if is_users(frame.filename)]
    return f"{text} ({Path(own[-1].filename).name}, line {own[-1].lineno})" if own and not isinstance(raised, SyntaxError) else text


def is_users(filename: str) -> bool:
    """Whether a source file is neither halfstep's, nor Python's, nor that of an installed package."""
    path = Path(filename)
    folders = (Path(__file__).parent, Path(os.__file__).parent)
    return path.is_absolute() and "site-packages" not in path.parts and not any(folder in path.parents for folder in folders)


def near_files(path: Path, suffixes: tuple[str, ...]) -> str:
    """The end of an error on a missing file: the closest name in its folder, all of them where they are few, or where to look."""
    folder = path.parent
    if not folder.is_dir():
        return f"Its folder {folder} does not exist either; the current folder is {Path.cwd()}."
    names = [entry.name for entry in folder.iterdir() if entry.is_dir() or entry.suffix.lower() in suffixes]
    sentence = did_you_mean(path.name, names)
    return sentence if sentence.startswith("Did you mean") or 0 < len(names) <= 10 else f"Look into {folder.resolve()} for its name."
