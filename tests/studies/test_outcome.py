"""Outcomes as JSON and as Markdown, and the sentence on the order of their rows."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from halfstep.errors import DataError
from halfstep.studies import Entry, Outcome, Published, Row, Settings
from halfstep.studies.outcome import order_sentences
from halfstep.studies.page import cells, markdown, page, read_all

OUTCOME = Outcome(
    study="table-4",
    title="Table 4: something",
    finding="It helps.",
    how="As there.",
    network="digits",
    settings=Settings(),
    spent="five seeds",
    float_top1=98.8,
    num_images=10_000,
    columns=("first", "all"),
    rows=(
        Row("Nearest", {"first": Entry((50.0,), Published(52.29)), "all": Entry((20.0,), Published(23.99))}),
        Row("Better", {"first": Entry((60.0, 62.0), Published(69.39, 0.04), 1.25)}),
        Row("Ours", {"first": Entry((61.0,)), "all": Entry(reason="It is not installed.")}, is_ours=True),
    ),
    verdict=("It is so.",),
    points={"x": [1.0, 2.5]},
    plot="table-4.png",
    versions={"halfstep": "0.1"},
)


def test_json_keeps_everything(tmp_path: Path) -> None:
    OUTCOME.write(tmp_path / "table-4.json")
    assert Outcome.read(tmp_path / "table-4.json") == OUTCOME


@pytest.mark.parametrize("content", ["{}", "no json"])
def test_another_file_is_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "x.json").write_text(content)
    with pytest.raises(DataError, match="not the outcome of a study"):
        Outcome.read(tmp_path / "x.json")


def test_cells() -> None:
    headers, rows = cells(OUTCOME)
    assert headers == ["", "first", "paper", "all", "paper", "CPU s"]
    assert rows == [
        ["Nearest", "50.00", "52.29", "20.00", "23.99", "– / –"],
        ["Better", "61.00 ± 1.41", "69.39 ± 0.04", "", "", "1.2"],
        ["Ours (not in the paper)", "61.00", "", "not run", "", "– / –"],
    ]


def test_markdown() -> None:
    text = markdown(OUTCOME, "table-4.png")
    assert text.startswith("# Table 4: something\n")
    assert "| Better | 61.00 ± 1.41 | 69.39 ± 0.04 |" in text
    assert "Not run: Ours. It is not installed." in text
    assert "* It is so." in text
    assert "](table-4.png)" in text


def test_order_sentences() -> None:
    (sentence,) = order_sentences(OUTCOME)  # only one column has two figures of the paper
    assert sentence == "first: the rows stand in the order of the paper."
    worse = replace(OUTCOME, rows=(OUTCOME.rows[0], replace(OUTCOME.rows[1], entries={"first": Entry((40.0,), Published(69.39))})))
    assert order_sentences(worse) == ["first: the order of the rows differs from the paper's, which has Better above Nearest."]
    close = replace(OUTCOME, rows=(OUTCOME.rows[0], replace(OUTCOME.rows[1], entries={"first": Entry((50.1,), Published(69.39))})))
    (sentence,) = order_sentences(close)
    assert sentence.startswith("first: no pair of rows contradicts the order of the paper. Too close to tell apart here")
    assert sentence.endswith("in the paper's order: Better above Nearest.")


def test_a_page_has_each_study_once_and_every_network(tmp_path: Path) -> None:
    for folder, study, network in (("b", "figure-1", "b"), ("a", "table-4", "a"), ("b", "table-4", "b"), ("b", "table-10", "b")):
        (tmp_path / folder).mkdir(exist_ok=True)
        replace(OUTCOME, study=study, title=study, network=network).write(tmp_path / folder / f"{study}.json")
    found = read_all(tmp_path)
    assert [(outcome.study, outcome.network) for outcome, _ in found] == [
        ("table-4", "a"), ("table-4", "b"), ("table-10", "b"), ("figure-1", "b"),
    ]  # fmt: skip
    text = page([(outcome, None) for outcome, _ in found], "# Head", {"table-4": "Because."})
    assert text.startswith("# Head\n\n## table-4\n")
    assert text.count("## table-4\n") == text.count("Because.") == 1
    assert text.count("\n### ") == 4


def test_settings_in_words() -> None:
    assert Settings().words() == "4-bit weights, 1,024 images, 10,000 iterations, all output positions, 5 seeds"
    quick = Settings.quick().words(with_images=False, with_seeds=False)
    assert quick == "quick settings: 4-bit weights, 1,000 iterations, 16 sampled output positions, one seed"
