"""The command line: one file a command, each a thin layer over the functions of ``halfstep``."""

from __future__ import annotations

import sys

__all__ = ["main"]


def main() -> None:
    """Run the ``halfstep`` command with the arguments of this process, then exit."""
    try:
        from halfstep.cli.app import app  # inside: loading PyTorch takes a second in which Ctrl-C may come
    except KeyboardInterrupt:
        sys.exit(130)
    app(prog_name=None)
