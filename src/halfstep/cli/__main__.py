"""``python -m halfstep.cli``: the same as ``halfstep``."""

from halfstep.cli import main

main()
