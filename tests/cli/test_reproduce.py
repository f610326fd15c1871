"""``halfstep reproduce``: files, resuming, networks of one's own, and what can be got wrong."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import Result

from halfstep.studies import STUDIES, Laboratory, Outcome

OWN = (
    "--model", "net.py:small", "--data", "images.npz", "--validation", "images.npz", "--mean", "0.4,0.5,0.6", "--std", "0.2,0.2,0.2",
    "--samples", "8", "--seeds", "1", "--iterations", "2",
)  # fmt: skip


def test_a_table_of_ones_own_network(here: Path, halfstep: Callable[..., Result]) -> None:
    result = halfstep("reproduce", "table-8", *OWN, "--out", "out")
    assert result.exit_code == 0, result.output
    folder = here / "out" / "small"
    outcome = Outcome.read(folder / "table-8.json")
    assert outcome.settings.num_iterations == 2 and outcome.settings.num_samples == 8
    text = (folder / "table-8.md").read_text()
    for row in outcome.rows:
        assert row.label in result.stdout and row.label in text
    assert "38.87" in result.stdout and "38.87" in text
    assert str(Path("out") / "small" / "table-8.md") in result.stdout
    assert "4 of 4 runs" in result.stderr


def test_resume_makes_no_run_twice(here: Path, halfstep: Callable[..., Result], monkeypatch: pytest.MonkeyPatch) -> None:
    first = halfstep("reproduce", "table-8", *OWN, "--out", "out")
    monkeypatch.setattr(Laboratory, "_new", None)
    again = halfstep("reproduce", "table-8", *OWN, "--out", "out", "--resume")
    assert again.exit_code == 0, again.output
    assert again.stdout == first.stdout


def test_a_figure_draws_its_picture(here: Path, halfstep: Callable[..., Result]) -> None:
    pytest.importorskip("matplotlib")
    assert halfstep("reproduce", "figure-2", *OWN, "--bits", "3", "--out", "out").exit_code == 0
    assert (here / "out" / "small" / "figure-2-w3.png").is_file()
    assert json.loads((here / "out" / "small" / "figure-2-w3.json").read_text())["plot"] == "figure-2-w3.png"


def test_quick_settings_are_named(here: Path, halfstep: Callable[..., Result]) -> None:
    shown = halfstep("reproduce", "table-8", *OWN, "--quick", "--out", "out").stdout
    assert "quick settings: 4-bit weights, 8 images, 2 iterations, 16 sampled output positions, 1 seed" in shown


def test_without_matplotlib_figures_are_refused_and_tables_are_not(
    refuse: Callable[..., str], halfstep: Callable[..., Result], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert "pip install 'halfstep[studies]'" in refuse("reproduce", "figure-2", *OWN, "--out", "out")
    assert halfstep("reproduce", "table-8", *OWN, "--out", "out").exit_code == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("table-7",), "Unknown study 'table-7'. Did you mean"),
        (("table-1", "--network", "resnet200"), "Did you mean 'resnet20'?"),
        (("table-1", "--data", "images.npz"), "give --model, too"),
        (("table-1", "--model", "net.py:small", "--data", "images.npz"), "--validation"),
    ],
)
def test_what_does_not_fit_is_refused(refuse: Callable[..., str], arguments: tuple[str, ...], message: str) -> None:
    assert message in refuse("reproduce", *arguments, "--out", "out")


def test_an_interrupted_study_says_how_to_go_on(here: Path, halfstep: Callable[..., Result], monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*arguments: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(STUDIES["table-8"], "run", interrupt)
    result = halfstep("reproduce", "table-8", *OWN, "--out", "out")
    assert result.exit_code == 130
    assert "goes on with --resume" in result.stderr
