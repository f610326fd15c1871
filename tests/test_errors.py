"""Messages are printable whatever they quote."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from halfstep.errors import ModelError, visible


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("layer1.0.conv1", "layer1.0.conv1"), ("層 é 😀", "層 é 😀"), ("two\nlines\tand", "two\nlines\tand"), ("", ""),
        ("\x1b[2J", "\\x1b[2J"), ("\r\b\0", "\\r\\x08\\x00"), ("\x9b", "\\x9b"), ("\u202egnp", "\\u202egnp"), ("\udc80", "\\udc80"),
        ("\u2028", "\\u2028"),
    ],
)  # fmt: skip
def test_what_steers_a_terminal_is_written_out(text: str, shown: str) -> None:
    assert visible(text) == shown
    assert str(ModelError(f"In '{text}'.")) == f"In '{shown}'."


@given(st.text())
def test_it_is_itself_from_then_on_and_utf_8(text: str) -> None:
    assert visible(visible(text)) == visible(text)
    assert visible(text).encode().decode() == visible(text)
    assert not any(ord(char) < 32 and char not in "\n\t" for char in visible(text))
