"""The classes that a network gave to the images, as one string of the results file."""

from collections.abc import Iterable


def as_text(classes: Iterable[int]) -> str:
    """One character an image, counted from "0" on: the digit itself where there are ten classes. Equal characters are equal classes."""
    return "".join(chr(ord("0") + found) for found in classes)
