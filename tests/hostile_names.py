"""Names that do harm where they are taken for something else than text: code, markup, paths, keys.

Every place of a file that holds a name is tried with all of them. What is run by one of them sets `SIGN` in the environment.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

SIGN = "HALFSTEP_WAS_MADE_TO_RUN_THIS"
CALL = f'getattr(getattr(__import__("os"),"environ"),"__setitem__")("{SIGN}","1")'  # without a dot: paths are taken apart there

CODE = (
    f'training"),{CALL},("',  # getattr(self, "..."), as torch.fx writes attributes that are no identifiers
    f'a"),{CALL}),getattr(self,"training',
    f"x={CALL}",  # the default of an argument
    f"x:{CALL}",  # its type
    f"x, y={CALL}",
    f"a; {CALL}; b",
    f"a\n    {CALL}\n    b",
    f"{CALL}",
    f"a[{CALL}]",
    f"{{{CALL}}}",  # of an f-string
    f'"""\n{CALL}\n"""',
    f"'''\n{CALL}\n'''",
    f"# type: ignore\r{CALL}",
    f"lambda: {CALL}",
)
"""Python, for every place in which a name was ever part of a line of code."""

OTHERS = (
    "class", "lambda", "None", "import", "async",
    "training", "forward", "meta", "graph", "code", "self", "__class__", "__init__", "__dict__", "_modules", "_parameters", "T_destination",
    "torch", "inf", "device", "pytree", "print", "x_0", "p_0", "b_0", "m_0", "e_0", "n_0", "t_0", "output", "output_1", "linear", "val_0",
    "number_1.0", "integers_0", "__metadata__", "least_float",
    " ", ".", "..", "a..b", "a.", ".a", "a", "a.codes", "a.scale", "a.zero_point", "a.real", "a.int8", "a#2", "a:quantize", "a:copy_1",
    "a b", "a_b", "a-b", "a/b", "../../a", "/etc/passwd", "C:\\a", "a" * 5000,
    "層", "é", "e\u0301", "\u202egnp.exe", "\u200b", "😀", "\ufeff",
    "\n", "a\nb", "\t", "\0", "a\0b", "'", '"', "`", "\\", "\\n", "%s%n%x", "${HOME}", "$name", "{0}", "{name}",
    "*/ int x; /*", "*/", "/*", "//", "??/", "??)", "#include <stdio.h>", '";system("true");"',
    "</script><script>alert(1)</script>", "<img src=x onerror=alert(1)>", "&lt;", "]]>", "--><b>",
    "[red]x[/red]", "[/red]", "[link=file:///]x", "\x1b[2J", "\x1b]0;title\x07", "\x9b2J", "\r", "\x7f", "\b\b\b",
)  # fmt: skip
"""Keywords, names that PyTorch or halfstep have uses for, paths, what steers terminals, pages and compilers."""

NAMES = CODE + OTHERS


@contextmanager
def nothing_runs() -> Iterator[None]:
    """Fails where one of the names was run inside the block."""
    os.environ.pop(SIGN, None)
    yield
    assert SIGN not in os.environ, "a name was run"
