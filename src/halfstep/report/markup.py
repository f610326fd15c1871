"""Pieces of HTML that every section of the report page is made of."""

from __future__ import annotations

import html
import re
from collections.abc import Iterable

from halfstep.errors import visible


def text(value: object) -> str:
    """Anything from outside, safe as text and inside a quoted attribute."""
    return html.escape(visible(str(value)))


def prose(sentence: str) -> str:
    """Text whose numbers stay on one line with the unit or word after them."""
    return re.sub(r"(?<![\w.-])(\d[\d.,]*×?) (?=[%A-Za-z])", r"\1&nbsp;", text(re.sub(r"\btop-(?=\d)", "top\u2011", sentence)))


def name(name: str) -> str:
    """A layer name that may break after its dots and underscores."""
    return re.sub(r"([._/])", r"\1<wbr>", text(name))


def row(cells: Iterable[str]) -> str:
    """A table row of finished cells."""
    return f"<tr>{''.join(cells)}</tr>"


def table(heads: Iterable[str], rows: Iterable[str], kind: str, label: str) -> str:
    """A table in its own scrolling box, so that a wide one never widens the page; it can be scrolled by keyboard."""
    return (
        f'<div class="scroll {kind}" tabindex="0" role="region" aria-label="{text(label)}"><table><thead>{row(heads)}</thead>\n'
        f"<tbody>\n{chr(10).join(rows)}\n</tbody></table></div>"
    )
