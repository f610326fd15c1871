"""What reaches the terminal."""

from __future__ import annotations

import io
import shutil
import sys
from pathlib import Path

import pytest

from halfstep.cli.terminal import complain, output, program, progress, say, table, tell


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_no_progress_where_standard_output_is_no_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    with progress() as report:
        assert report is None
    assert capsys.readouterr() == ("", "")


def test_progress_on_a_terminal_goes_to_standard_error_with_the_time_left(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "120")
    monkeypatch.setattr(sys, "stdout", Terminal())
    monkeypatch.setattr(sys, "stderr", Terminal())
    with progress() as report:
        assert report is not None
        report("statistics", 3, 8)
        report("calibrate", 0, None)
    shown = sys.stderr.getvalue()  # type: ignore[attr-defined]
    assert "statistics" in shown
    assert "3/8" in shown
    assert "left" in shown
    assert "calibrate" in shown
    assert sys.stdout.getvalue() == ""  # type: ignore[attr-defined]


def test_names_with_brackets_and_long_lines_are_printed_as_they_are(capsys: pytest.CaptureFixture[str]) -> None:
    line = "layers[0].conv [bold] :smile: " + "x" * 300
    say(line)
    complain(line)
    out, err = capsys.readouterr()
    assert out == line + "\n"
    assert err == f"Error: {line}\n"


def test_nothing_that_is_printed_steers_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    name = "\x1b[2J\x1b]0;title\x07[red]x[/green]\r\u202e"
    say(name)
    complain(name)
    tell(name)
    shown = table(name)
    shown.add_row(name)
    output().print(shown)
    both = capsys.readouterr()
    for text in (both.out, both.err):
        assert not [char for char in text if char in "\x1b\x07\r\u202e"]
        assert text.count("[red]x[/green]") == 2 if text is both.err else text.count("\\x1b[2J") >= 1


def test_the_program_is_named_as_it_can_be_called(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    script = tmp_path / "a folder" / "halfstep"
    script.parent.mkdir()
    script.touch()
    monkeypatch.setattr(sys, "argv", [str(script)])
    monkeypatch.setattr(shutil, "which", lambda _: str(script))
    assert program() == "halfstep"
    monkeypatch.setattr(shutil, "which", lambda _: None)
    assert program() == f"'{script}'"
    monkeypatch.setattr(sys, "argv", ["/site-packages/halfstep/cli/__main__.py"])
    assert program().endswith(" -m halfstep.cli")
