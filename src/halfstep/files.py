"""Files and directories that appear whole or not at all: written under a temporary sibling name, flushed to disk, then renamed.

Whoever writes one holds its place (`halfstep.holds`), so that temporary names beside it that belong to nobody in this process are those of
processes that were killed: they are removed.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path

from halfstep.errors import HalfstepError
from halfstep.holds import Hold

_WAYS_OUT = {
    errno.ENOSPC: "The disk is full: free some space or choose another place.",
    errno.EDQUOT: "The disk quota is used up: free some space or choose another place.",
    errno.EFBIG: "The file is larger than the file system or the file-size limit (ulimit -f) allows: raise it or choose another place.",
    errno.EACCES: "You may not write there: change its permissions or choose another place.",
    errno.EPERM: "You may not write there: change its permissions or choose another place.",
    errno.EROFS: "The file system is read-only: choose another place.",
    errno.EIO: "Writing broke off part of the way, the disk is full or faulty: free some space or choose another place.",
    errno.ENOENT: "The folder does not exist: create it or choose another place.",
    errno.ENOTDIR: "A part of the path is a file, not a folder: choose another place.",
    errno.EISDIR: "A folder has that name: choose another name.",
    errno.ENAMETOOLONG: "The name is too long: choose a shorter one.",
}
# Failures of a write itself carry no file name; with these codes they can only be about the disk being written to.
_DISK_FAILURES = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EROFS})
_NATIVE_CODE = re.compile(r"\(os error (\d+)\)")  # how libraries written in Rust (safetensors) report a failed system call
_ASIDE = ".replaced"  # what the name of a directory ends in while another one takes its place
_LIVE: set[Path] = set()  # temporary names that this process is writing to
_TORCH_WRITER = "inline_container"  # the file in torch's zip writer whose checks fail when a write does; it does not say why


@contextlib.contextmanager
def atomic_path(path: str | os.PathLike[str]) -> Iterator[Path]:
    """A temporary name beside ``path`` to write one file to; it becomes ``path`` when the block ends well.

    The temporary name keeps the suffix of ``path``. On any exception, Ctrl-C included, it is removed and a file that was at ``path``
    stays as it was. A symbolic link is followed; a pipe or device (``/dev/stdout``) is written to directly.

    Raises:
        HalfstepError: the file cannot be written (full disk, no permission, no such folder): names ``path`` and the way out.
    """
    target = Path(os.path.realpath(path))
    if target.is_dir():
        raise _cannot_write(path, errno.EISDIR)
    if not target.parent.is_dir():
        raise _cannot_write(path, errno.ENOTDIR if _has_file_above(target) else errno.ENOENT)
    if target.exists() and not target.is_file():
        with _disk_errors(path, target):
            yield target
        return
    with _held(path, waits=True) as held, _temporary(target) as temporary:
        if held.is_exclusive:
            _sweep(target)
        with _disk_errors(path, temporary, target):
            yield temporary
            _flush(temporary)
            os.replace(temporary, target)
            _flush_directory(target.parent)


@contextlib.contextmanager
def atomic_directory(path: str | os.PathLike[str], force: bool = False) -> Iterator[Path]:
    """A temporary directory beside ``path`` to fill; it becomes ``path`` when the block ends well.

    Missing parents are created. An existing directory with content is refused at once unless ``force``; with ``force`` it is replaced
    at the very end. On any exception, Ctrl-C included, everything created here is removed and an old directory stays as it was.

    Raises:
        HalfstepError: ``path`` is taken, may not be replaced, or cannot be written to: names ``path`` and the way out.
    """
    with claimed(path) as target:
        refuse_filled(path, force)
        with _temporary(target) as temporary, _disk_errors(path, temporary, target):
            temporary.mkdir()
            yield temporary
            _flush_tree(temporary)
            _swap(temporary, target)
            _flush_directory(target.parent)


@contextlib.contextmanager
def claimed(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Keep the place of a directory for this process, tidied up after processes that were killed there; its real path.

    Missing parents are created, and removed where nothing came into them.

    Raises:
        HalfstepError: ``path`` is no place for a directory, another process is at work on it, or it cannot be written to: names ``path``
            and the way out.
    """
    target = Path(os.path.realpath(path))
    _refuse_target(path, target)
    created: list[Path] = []
    try:
        with _disk_errors(path, *target.parents):
            _make_parents(target.parent, created)
        with _held(path) as held:
            if held.is_exclusive:
                with _disk_errors(path, target.parent):
                    _put_back(target)
                _sweep(target)
            yield target
    finally:
        for folder in reversed(created):
            with contextlib.suppress(OSError):
                folder.rmdir()


def refuse_filled(path: str | os.PathLike[str], force: bool = False) -> None:
    """Raise `HalfstepError` when ``path`` is a directory with content, unless ``force``."""
    target = Path(os.path.realpath(path))
    try:
        is_filled = os.path.lexists(target) and any(target.iterdir())
    except OSError as error:
        raise _cannot_write(path, error.errno) from error
    if is_filled and not force:
        raise HalfstepError(
            f"Output directory '{os.fspath(path)}' is not empty: pass --force (force=True) to replace it, or choose another name."
        )


def hold(path: str | os.PathLike[str], waits: bool = False) -> Hold:
    """The place ``path``, a file or a directory, kept for this process; see `Hold`. Missing parents are created.

    Raises:
        HalfstepError: another process is at work on it, or nothing can be written beside it.
    """
    target = Path(os.path.realpath(path))
    with _disk_errors(path, *target.parents):
        target.parent.mkdir(parents=True, exist_ok=True)
        return Hold(path, waits)


@contextlib.contextmanager
def _held(path: str | os.PathLike[str], waits: bool = False) -> Iterator[Hold]:
    """`hold` for the length of the block."""
    held = hold(path, waits)
    try:
        yield held
    finally:
        held.release()


@contextlib.contextmanager
def _temporary(target: Path) -> Iterator[Path]:
    """A name beside ``target`` that nobody has; whatever has it after the block is removed."""
    temporary = target.with_name(_temporary_name(target))
    _LIVE.add(temporary)
    try:
        yield temporary
    finally:
        _remove(temporary)
        _LIVE.discard(temporary)


def _put_back(target: Path) -> None:
    """Finish what a process was killed at between the two renames of `_swap`, or right behind them."""
    old = target.with_name(f".{target.name[:200]}{_ASIDE}")
    if old.is_dir():
        if target.exists():
            _remove(old)
        else:
            os.rename(old, target)


def _sweep(target: Path) -> None:
    """Remove temporary names of ``target`` that processes left which were killed; its place is held, so no other process is writing."""
    names: list[str] = []
    with contextlib.suppress(OSError):  # one may write to a folder that one may not list
        names = os.listdir(target.parent)
    for name in names:
        if _is_temporary(name, target) and target.with_name(name) not in _LIVE:
            _remove(target.with_name(name))


def _remove(path: Path) -> None:
    """A file or a folder, if it is there and can be removed."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with contextlib.suppress(OSError):
            path.unlink(missing_ok=True)


def _refuse_target(path: str | os.PathLike[str], target: Path) -> None:
    """Raise when ``target`` exists and is nothing that this module may replace."""
    name = os.fspath(path)
    if not os.path.lexists(target):
        return
    if not target.is_dir():
        raise HalfstepError(f"Output directory '{name}' is a file. Choose another name or remove it.")
    # The directory itself is replaced, so it may not be one that something stands in or on.
    if os.path.ismount(target):
        raise HalfstepError(f"Output directory '{name}' is a mount point and cannot be replaced. Name a folder inside it.")
    if any(target in (place, *place.parents) for place in (Path.cwd(), Path(os.path.realpath(Path.home())))):
        raise HalfstepError(
            f"Output directory '{name}' holds the current or the home folder and cannot be replaced. Name a folder inside it."
        )


def _swap(temporary: Path, target: Path) -> None:
    """Put ``temporary`` in the place of ``target``; the old directory is deleted only after the new one stands there."""
    old = target.with_name(f".{target.name[:200]}{_ASIDE}")
    try:
        if os.path.lexists(target):
            os.rename(target, old)
        os.rename(temporary, target)
    except BaseException:
        if old.exists() and not target.exists():
            os.rename(old, target)
        raise
    shutil.rmtree(old, ignore_errors=True)


def _temporary_name(target: Path) -> str:
    return f".{target.stem[:60]}.{secrets.token_hex(4)}.partial{target.suffix[:20]}"


def _is_temporary(name: str, target: Path) -> bool:
    """Whether ``name`` is one that `_temporary_name` gives."""
    start, end = re.escape(f".{target.stem[:60]}."), re.escape(f".partial{target.suffix[:20]}")
    return re.fullmatch(f"{start}[0-9a-f]{{8}}{end}", name) is not None


def _has_file_above(target: Path) -> bool:
    return any(parent.exists() and not parent.is_dir() for parent in target.parents)


def _make_parents(folder: Path, created: list[Path]) -> None:
    """Create ``folder`` and the missing folders above it, noting each in ``created`` from the top down."""
    missing = [parent for parent in (folder, *folder.parents) if not parent.exists()]
    for parent in reversed(missing):
        parent.mkdir()
        created.append(parent)


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDWR)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _flush_directory(path: Path) -> None:
    """Make a rename durable. Not every system or file system can: what is already renamed is not undone for it."""
    with contextlib.suppress(OSError):
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _flush_tree(path: Path) -> None:
    for folder, _, names in os.walk(path):
        for name in names:
            _flush(Path(folder, name))
        _flush_directory(Path(folder))


@contextlib.contextmanager
def _disk_errors(path: str | os.PathLike[str], *places: Path) -> Iterator[None]:
    """Turn a failure to write to one of ``places`` into a `HalfstepError` about ``path``; let every other exception through."""
    try:
        yield
    except HalfstepError:
        raise
    except Exception as error:
        code = _disk_error_code(error, places)
        if code is None:
            raise
        raise _cannot_write(path, code) from error


def _disk_error_code(error: Exception, places: tuple[Path, ...]) -> int | None:
    """The system's error code when ``error`` is about writing to one of ``places``, else None."""
    if not isinstance(error, OSError):
        if isinstance(error, RuntimeError) and _TORCH_WRITER in str(error):
            return errno.EIO
        native = _NATIVE_CODE.search(str(error))
        code = int(native.group(1)) if native else None
        return code if code in _DISK_FAILURES else None
    if isinstance(error.filename, (str, os.PathLike)):
        named = Path(error.filename)
        return error.errno if any(named == place or place in named.parents for place in places) else None
    return error.errno if error.errno in _DISK_FAILURES else None


def _cannot_write(path: str | os.PathLike[str], code: int | None) -> HalfstepError:
    reason = _WAYS_OUT.get(code or 0) or f"{os.strerror(code) if code else 'Unknown error'}: choose another place."
    return HalfstepError(f"Cannot write '{os.fspath(path)}'. {reason}")
