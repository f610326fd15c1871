"""What a user can mend, in one message each."""

from __future__ import annotations

import errno

from halfstep.errors import HalfstepError, OutOfMemoryError, is_out_of_memory

MEMORY = "Take fewer samples (--samples), smaller inputs or smaller batches, or lower the option 'memory' of the recipe's steps."


class Terminated(KeyboardInterrupt):
    """SIGTERM: of a batch system whose time is up, say."""


def message(error: Exception) -> str | None:
    """The one message for ``error``; None where it is a defect of halfstep, or the reader of a pipe that has gone."""
    if is_out_of_memory(error) and not isinstance(error, OutOfMemoryError):
        return f"There is not enough memory. {MEMORY}"
    if isinstance(error, HalfstepError):
        return str(error)
    if isinstance(error, OSError) and error.errno != errno.EPIPE:
        return describe(error)
    return None


def describe(error: OSError) -> str:
    """What the system refused, at which file, and the way out where there is an obvious one."""
    where = f" '{error.filename}'" if error.filename else ""
    if error.errno == errno.ENOSPC:
        return f"The disk is full{where and ':'}{where}. Free some space or choose another place."
    reason = error.strerror or str(error) or type(error).__name__
    return f"{reason}{where and ':'}{where}."
