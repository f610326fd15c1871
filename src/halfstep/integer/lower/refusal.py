"""Why an operator cannot be lowered."""

from __future__ import annotations


class NoIntegerFormError(Exception):
    """One operator cannot be lowered; its text says why. An empty one: for want of a value that failed before it, and is named already."""
