"""Help texts, the version, and options that do not exist."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest
from typer.testing import Result

COMMANDS = ("quantize", "finetune", "evaluate", "export", "demo", "list")


@pytest.mark.parametrize("command", [(), *((name,) for name in COMMANDS)])
def test_every_help_ends_with_an_example(halfstep: Callable[..., Result], command: tuple[str, ...]) -> None:
    result = halfstep(*command, "--help")
    assert result.exit_code == 0
    words = " ".join(result.stdout.split())
    example = words[words.rindex("Example: halfstep") :]
    # Nothing but the example's own words follow it: no box of options.
    assert re.fullmatch(r"Example: halfstep [\w .:/=-]+", example)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_option_has_a_help_text(halfstep: Callable[..., Result], command: str) -> None:
    result = halfstep(command, "--help")
    for line in result.stdout.splitlines():
        if match := re.match(r"│ (?:\* )? {0,4}--[a-z-]+(.*)│$", line):
            assert len(match.group(1).split()) >= 2, line


def test_quantize_has_the_options_of_its_manual(halfstep: Callable[..., Result]) -> None:
    shown = halfstep("quantize", "--help").stdout
    options = "data recipe weights activations samples seed out statistics force json mean std scale size crop validation state-dict"
    assert [name for name in options.split() if f"--{name} " not in shown] == []


def test_no_arguments_show_the_help(halfstep: Callable[..., Result]) -> None:
    assert "quantize" in halfstep().output


def test_version(halfstep: Callable[..., Result]) -> None:
    result = halfstep("--version")
    assert result.exit_code == 0
    assert re.match(r"halfstep[ ,]", result.stdout)


@pytest.mark.parametrize(
    ("arguments", "wrong", "meant"),
    [
        (("quantize", "net.py:small", "--data", "images.npz", "--out", "run", "--recpie", "int8"), "--recpie", "--recipe"),
        (("evaluate", "run", "--dta", "images.npz"), "--dta", "--data"),
        (("quantise",), "quantise", "quantize"),
    ],
)
def test_a_wrong_option_or_command_names_the_right_one(
    refuse: Callable[..., str], arguments: tuple[str, ...], wrong: str, meant: str
) -> None:
    message = refuse(*arguments, status=2)
    assert wrong in message
    assert meant in message.partition(wrong)[2]


def test_a_missing_option_is_named(refuse: Callable[..., str]) -> None:
    assert "--data" in refuse("quantize", "net.py:small", "--out", "run", status=2)
