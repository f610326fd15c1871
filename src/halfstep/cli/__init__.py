"""The command line: one file a command, each a thin layer over the functions of ``halfstep``."""

from __future__ import annotations

import signal
import sys
from typing import NoReturn

__all__ = ["main"]


def main() -> None:
    """Run the ``halfstep`` command with the arguments of this process, then exit."""
    try:
        from halfstep.cli.app import app  # inside: loading PyTorch takes a second in which Ctrl-C may come
    except KeyboardInterrupt:
        sys.exit(130)
    signal.signal(signal.SIGTERM, _terminate)
    app(prog_name=None)


def _terminate(number: int, frame: object) -> NoReturn:
    """What ends a process politely is answered as Ctrl-C is, and says as much about what is kept."""
    from halfstep.cli.messages import Terminated

    raise Terminated
