"""The SHA-256 digests of the files of a folder, in a file beside them: what was written is what is read, or the difference has a name.

They guard against accidents and edits. They do not guard against someone who changes a file and its digest.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable
from pathlib import Path

from halfstep.files import atomic_path

DIGESTS_FILE = "digests.json"
_MAX_BYTES = 1 << 20
_CHUNK = 1 << 20


def write_digests(folder: Path) -> None:
    """Note every file directly in ``folder``, whatever was noted before; hidden files are left out."""
    names = [path.name for path in folder.iterdir() if path.is_file() and path.name[0] != "."]
    _write(folder, {name: digest(folder / name) for name in names if name != DIGESTS_FILE})


def update_digests(folder: Path, names: Iterable[str]) -> None:
    """Note the files ``names`` of ``folder`` as they are now, and forget those that are gone; all others stay as they were noted.

    To be called after every change of a saved run. The file with the digests is replaced whole, so a reader sees the old or the new ones.
    Of several processes that do so one must do so at a time.
    """
    noted = read_digests(folder) or {}
    for name in names:
        noted.pop(name, None)
        if (folder / name).is_file():
            noted[name] = digest(folder / name)
    _write(folder, noted)


def note_written(path: str | os.PathLike[str]) -> None:
    """`update_digests` of the one file ``path``, where the folder it was written to keeps digests; nothing anywhere else."""
    file = Path(os.path.realpath(path))
    if file.is_file() and (file.parent / DIGESTS_FILE).is_file():
        update_digests(file.parent, [file.name])


def read_digests(folder: Path) -> dict[str, str] | None:
    """Digest by file name; None where ``folder`` has no readable list of them."""
    path = folder / DIGESTS_FILE
    if not path.is_file() or path.stat().st_size > _MAX_BYTES:
        return None
    try:
        noted = json.loads(path.read_bytes())
    except (ValueError, RecursionError):
        return None
    if not isinstance(noted, dict) or not all(isinstance(value, str) for value in noted.values()):
        return None
    return {name: value for name, value in noted.items() if name and Path(name).name == name and "\0" not in name}


def changed_files(folder: Path, read: Iterable[str]) -> list[str]:
    """ "model.json was changed" ...: how the noted files, and those of ``read`` that exist, differ from what was noted."""
    noted = read_digests(folder)
    if noted is None:
        return [f"{DIGESTS_FILE} is missing or damaged"]
    found = []
    for name in sorted({*noted, *read}):
        path = folder / name
        if not path.is_file():
            found += [f"{name} was removed"] if name in noted else []
        elif name not in noted:
            found.append(f"{name} was added")
        elif digest(path) != noted[name]:
            found.append(f"{name} was changed")
    return found


def digest(path: Path) -> str:
    """The SHA-256 of a file's bytes, in hexadecimal."""
    summed = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            summed.update(chunk)
    return summed.hexdigest()


def _write(folder: Path, noted: dict[str, str]) -> None:
    with atomic_path(folder / DIGESTS_FILE) as temporary:
        temporary.write_text(json.dumps(noted, indent=2, sort_keys=True) + "\n", encoding="utf-8")
