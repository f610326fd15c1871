"""The errors halfstep raises on purpose: each says what, where in the user's own names, and the way out."""

from __future__ import annotations

import difflib
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager

_UNSEEN = {"Cc", "Cf", "Cs", "Co", "Zl", "Zp"}  # categories of characters that steer a terminal or show nothing


def visible(text: str) -> str:
    """``text`` with every character that steers a terminal, or shows nothing, written out, as code points; lines and tabs stay.

    Names that come from files are text like any other, and go through here before they are printed.
    """
    if text.isascii() and text.isprintable():
        return text
    return "".join(_written_out(char) if unicodedata.category(char) in _UNSEEN and char not in "\n\t" else char for char in text)


def _written_out(char: str) -> str:
    return char.encode("unicode_escape").decode("ascii")


class HalfstepError(Exception):
    """Anything a user can mend. The command line prints its text alone and exits with status 1."""

    def __str__(self) -> str:
        """The message, printable whatever it quotes."""
        return visible(super().__str__())


class DataError(HalfstepError):
    """Inputs that cannot be read, have the wrong shape or type, or hold NaN or infinite values."""


class ModelError(HalfstepError):
    """A network that cannot be loaded or captured, or whose weights are not finite."""


class GraphError(HalfstepError):
    """A graph that does not have the form every step relies on."""


class RecipeError(HalfstepError):
    """A recipe, step, method or option that does not exist or does not fit."""


class CalibrationError(HalfstepError):
    """Statistics that are missing, do not belong to this network, or give no usable range."""


class TrainingError(HalfstepError):
    """A training run that cannot go on, or cannot begin."""


class LoweringError(HalfstepError):
    """A network that has no form in integers alone, or an integer program that does not hold what it must."""


class ExportError(HalfstepError):
    """A file that could not be written, or that does not compute what the simulation computes."""


class OutOfMemoryError(HalfstepError):
    """Work for which the memory does not suffice."""


# How numpy and Python (MemoryError), torch, C++ libraries and the system say it. Of torch: "can't allocate memory: you tried to allocate",
# "unable to mmap ...: Cannot allocate memory (12)", "CUDA out of memory"; of ONNX Runtime: "bad allocation", "Failed to allocate memory".
_SHORT_OF_MEMORY = (
    "t allocate memory",
    "cannot allocate memory",
    "failed to allocate memory",
    "bad_alloc",
    "bad allocation",
    "out of memory",
)


def is_out_of_memory(error: BaseException | None) -> bool:
    """Whether ``error``, or what caused it, says that there was no more memory."""
    while error is not None:
        text = str(error).lower()
        if isinstance(error, MemoryError) or any(words in text for words in _SHORT_OF_MEMORY):
            return True
        error = error.__cause__
    return False


@contextmanager
def memory_errors(what: str, way_out: str) -> Iterator[None]:
    """Turn a lack of memory into an `OutOfMemoryError` about ``what``."""
    try:
        yield
    except Exception as error:
        if isinstance(error, OutOfMemoryError) or not is_out_of_memory(error):
            raise
        raise OutOfMemoryError(f"There is not enough memory for {what}. {way_out}") from error


def first_few(names: Sequence[str], most: int) -> str:
    """ "a, b and 3 more": at most ``most`` of the names, and how many there are beside them."""
    more = len(names) - most
    return ", ".join(names[:most]) + (f" and {more} more" if more > 0 else "")


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """A sentence with the closest of ``known``, else the whole list: the end of an error on an unknown name."""
    known = sorted(known)
    close = difflib.get_close_matches(name, known, n=1)
    return f"Did you mean '{close[0]}'?" if close else f"Known: {', '.join(known) or 'none'}."
