"""Where tables and messages are printed: nothing in them steers the terminal."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, final

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment

from halfstep.errors import visible


@final
class PlainConsole(Console):
    """A console that writes out what `visible` writes out, and for which no text is markup; colours of its own stay."""

    def __init__(self, **options: Any) -> None:
        super().__init__(markup=False, emoji=False, highlight=False, **options)

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """The pieces of what is printed."""
        for piece in super().render(renderable, options):
            yield piece if piece.control else piece._replace(text=visible(piece.text))
