"""What the commands print: results to standard output, errors and progress to standard error."""

from __future__ import annotations

import contextlib
import json
import shlex
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from rich import box
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from halfstep.files import atomic_path
from halfstep.report.console import PlainConsole

PIPE_WIDTH = 120  # columns of a table that no terminal limits

Report = Callable[[str, float, int | None], None]
"""How long work tells where it is: called with a phase, the steps done, and the steps in all (None: not known, or as before)."""


def output() -> PlainConsole:
    """Standard output as it is now; made anew for each use, since tests and pipes replace it."""
    width = None if sys.stdout.isatty() else PIPE_WIDTH
    return PlainConsole(width=width)


def table(*headers: str) -> Table:
    """An empty table in the style of all of them; the first column names the row."""
    made = Table(box=box.SIMPLE_HEAD, header_style="bold", pad_edge=False)
    for header in headers:
        made.add_column(header, overflow="fold")
    return made


def errors() -> PlainConsole:
    """Standard error as it is now."""
    return PlainConsole(stderr=True, soft_wrap=True)


def say(line: str) -> None:
    """One line on standard output."""
    output().print(line, soft_wrap=True)


def tell(line: str) -> None:
    """One line of news from a long run, on standard error."""
    errors().print(line)


def write_json(value: Any, path: Path) -> None:
    """Write nested dictionaries and lists; `HalfstepError` where the file cannot be written."""
    text = json.dumps(value, indent=2) + "\n"
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def complain(message: str) -> None:
    """One error message on standard error."""
    errors().print(Text.assemble(("Error: ", "bold red"), message))


@contextlib.contextmanager
def progress() -> Iterator[Report | None]:
    """Bars with the time left, one a phase, on standard error; None where standard output is not a terminal."""
    if not sys.stdout.isatty() or not sys.stderr.isatty():
        yield None
        return
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=PlainConsole(stderr=True), transient=True) as bars:
        tasks: dict[str, TaskID] = {}

        def report(phase: str, done: float, total: int | None) -> None:
            if phase not in tasks:
                tasks[phase] = bars.add_task(phase, total=total)
            bars.update(tasks[phase], completed=done, total=total)  # rich leaves a total of None as it was

        yield report


def program() -> str:
    """How this program was started, in words that can be pasted into the same shell."""
    started = Path(sys.argv[0])
    if started.name == "__main__.py":
        return f"{shlex.quote(sys.executable)} -m halfstep.cli"
    found = shutil.which("halfstep")
    if found is None or (started.exists() and not started.samefile(found)):
        return shlex.quote(sys.argv[0])
    return "halfstep"
