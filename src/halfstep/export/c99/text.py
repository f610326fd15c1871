"""C in text: identifiers, types of codes, arrays, templates."""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from string import Template

import numpy as np
from numpy.typing import NDArray

from halfstep.grid import Grid

_KERNELS = Path(__file__).parent / "kernels"
_FORMS = Path(__file__).parent / "forms"
_LINE = 120
_KEYWORDS = frozenset(
    {
        "arena",
        "asm",
        "auto",
        "bool",
        "break",
        "case",
        "char",
        "class",
        "const",
        "continue",
        "default",
        "delete",
        "do",
        "double",
        "else",
        "enum",
    }
    | {"extern", "float", "for", "goto", "if", "inline", "int", "long", "main", "model", "new", "private", "public", "register", "restrict"}
    | {"return", "short", "signed", "sizeof", "static", "struct", "switch", "template", "this", "typedef", "union", "unsigned", "using"}
    | {"virtual", "void", "volatile", "while"}
)


def identifier(name: str) -> str:
    """The name as a C (and C++) identifier: letters, digits and single underscores, no keyword."""
    cleaned = re.sub(r"[^A-Za-z0-9]+", "_", name).strip("_") or "network"
    return f"n_{cleaned}" if cleaned[0].isdigit() or cleaned in _KEYWORDS else cleaned


def code_type(grid: Grid) -> str:
    """ "u8", "s8", "u16", "s16" or "s32": how codes of a grid lie in memory, and the end of ``hs_get_`` and ``hs_put_``."""
    if grid.bits > 16:
        return "s32"
    return f"{'s' if grid.signed else 'u'}{8 if grid.bits <= 8 else 16}"


def c_type(code: str) -> str:
    """The C type of a `code_type`."""
    return f"{'u' if code[0] == 'u' else ''}int{code[1:]}_t"


def item_bytes(code: str) -> int:
    """Bytes of one code."""
    return int(code[1:]) // 8


def type_bounds(code: str) -> tuple[int, int]:
    """What a `code_type` can hold."""
    bits = int(code[1:])
    return (-(1 << (bits - 1)), (1 << (bits - 1)) - 1) if code[0] == "s" else (0, (1 << bits) - 1)


def literal(number: int) -> str:
    """An int32 constant; the least one has no literal of its own in C."""
    return "(-2147483647 - 1)" if number == -(2**31) else str(number)


def array(declaration: str, numbers: NDArray[np.integer]) -> str:
    """``declaration = {...};`` in lines."""
    lines, line = [], "   "
    for number in numbers.reshape(-1).tolist():
        piece = f" {literal(number)},"
        if len(line) + len(piece) > _LINE:
            lines.append(line)
            line = "   "
        line += piece
    return "\n".join([f"{declaration} = {{", *lines, line, "};"])


def comment(text: str) -> str:
    """Text that may hold anything, for within a C comment."""
    return re.sub(r"[^ -~]", "?", text).replace("*/", "* /").replace("/*", "/ *")


def string(text: str) -> str:
    """A C string literal."""
    return '"' + "".join(char if " " <= char <= "~" and char not in '"\\?' else "".join(f"\\{b:03o}" for b in char.encode())
                         for char in text) + '"'  # fmt: skip


def indented(lines: Iterable[str], depth: int = 1) -> str:
    """Lines, each ``depth`` steps in."""
    return "\n".join("    " * depth + line if line else line for text in lines for line in text.split("\n"))


@cache
def form(name: str) -> Template:
    """The text of a function, with ``$names`` for what differs; from the folder ``forms``."""
    return Template((_FORMS / name).read_text())


@cache
def kernels() -> str:
    """The header of functions that all exported networks share."""
    parts = ("base.h", "unpack.h", "normalize.h", "products.h", "products_x86.h")
    return "".join((_KERNELS / name).read_text() for name in parts) + "\n#endif\n"
