"""One process at a time at one place: whoever writes a file or a folder holds it, by a lock of the system that ends with the process.

The lock is on an empty file ``.NAME.lock`` beside NAME. It goes when the place is released; what a killed process leaves of it locks
nothing. Where a file system has no locks, nobody is kept out.
"""

from __future__ import annotations

import contextlib
import errno
import os
import threading
import time
import weakref
from dataclasses import dataclass
from pathlib import Path

from filelock import lock_descriptor

from halfstep.errors import HalfstepError

_POLL_SECONDS = 0.05
_NO_LOCKS = frozenset({errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTSUP, errno.ENOLCK, errno.EINVAL})


@dataclass
class _Open:
    """descriptor: of the locked file; None where the file system has no locks. process: that opened it. count: of holds."""

    descriptor: int | None
    process: int
    count: int = 0


_OPEN: dict[Path, _Open] = {}
_GUARD = threading.RLock()


class Hold:
    """A file or folder ``place``, there or not, kept for this process until `release`, the end of this object, or that of the process.

    One process may hold a place several times. waits: until another process lets go of it, instead of raising `HalfstepError`. Raises
    ``OSError`` where the lock file cannot be made.
    """

    def __init__(self, place: str | os.PathLike[str], waits: bool = False) -> None:
        self.target = Path(os.path.realpath(place))
        while not _take(self.target):
            if not waits:
                raise HalfstepError(
                    f"Another process is at work on '{os.fspath(place)}'. Wait until it has ended, end it, or choose another name."
                )
            time.sleep(_POLL_SECONDS)
        self.release = weakref.finalize(self, _let_go, self.target)

    @property
    def is_exclusive(self) -> bool:
        """Whether other processes are kept out: False where the file system has no locks."""
        return _OPEN[self.target].descriptor is not None


def _lock_file(target: Path) -> Path:
    return target.with_name(f".{target.name[:200]}.lock")


def _take(target: Path) -> bool:
    """Whether ``target`` is this process's now."""
    with _GUARD:
        found = _OPEN.get(target)
        if found is None or found.process != os.getpid():  # a forked child does not share its parent's
            opened = _locked(_lock_file(target))
            if opened is None:
                return False
            found = _OPEN[target] = opened
        found.count += 1
        return True


def _locked(file: Path) -> _Open | None:
    """The locked file; None where another process has it."""
    while True:
        descriptor = os.open(file, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            if not lock_descriptor(descriptor, blocking=False):
                os.close(descriptor)
                return None
            # Between opening and locking, whoever had it may have removed it: then it is no longer the file that others will open.
            if os.path.exists(file) and os.path.samestat(os.fstat(descriptor), os.stat(file)):
                return _Open(descriptor, os.getpid())
            os.close(descriptor)
        except OSError as error:
            os.close(descriptor)
            if error.errno not in _NO_LOCKS:
                raise
            file.unlink(missing_ok=True)
            return _Open(None, os.getpid())


def _let_go(target: Path) -> None:
    with _GUARD:
        found = _OPEN.get(target)
        if found is None or found.process != os.getpid():
            return
        found.count -= 1
        if found.count:
            return
        del _OPEN[target]
        if found.descriptor is not None:
            with contextlib.suppress(OSError):  # removed first, so that nobody can lock a file that is about to go
                _lock_file(target).unlink(missing_ok=True)
            os.close(found.descriptor)
