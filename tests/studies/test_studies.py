"""Every study from start to end on the digits network, with next to nothing spent on it: the runs are shared as on the command line."""

from __future__ import annotations

import struct
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import halfstep as hs
from halfstep.graph.operators import weighted_layers
from halfstep.registry import Registry
from halfstep.studies import STUDIES, AbstractFigure, AbstractTable, Cell, Laboratory, Outcome, Settings, Subject
from halfstep.studies.abstract import place
from halfstep.studies.figure_3 import moves
from halfstep.studies.page import cells, markdown

TINY = Settings(num_seeds=2, num_iterations=3, num_positions=4, num_samples=32, num_draws=3)
SLOW = ("table-1", "table-2", "table-3", "table-5", "table-6", "table-10", "figure-1", "figure-4")
"""Those that take more than 5 seconds when they are run alone."""
OF_ADAROUND = [name for name in STUDIES if not STUDIES[name].is_trained]
PARAMETERS = [pytest.param(name, marks=pytest.mark.slow) if name in SLOW else name for name in OF_ADAROUND]


@pytest.fixture(scope="module")
def laboratory(digits: Subject) -> Laboratory:
    return Laboratory(digits, TINY)


@pytest.mark.parametrize("name", PARAMETERS)
def test_from_start_to_end(name: str, laboratory: Laboratory, tmp_path: Path) -> None:
    study = STUDIES[name]()
    outcome = study.run(laboratory)
    assert outcome.study == name and outcome.network == "digits" and outcome.num_images == 500
    assert outcome.float_top1 > 95
    assert outcome.verdict and all(sentence.endswith(".") for sentence in outcome.verdict)
    entries = [entry for row in outcome.rows for entry in row.entries.values()]
    assert all(entry.values for entry in entries), [entry.reason for entry in entries]
    assert {column for row in outcome.rows for column in row.entries} == set(outcome.columns)
    headers, rows = cells(outcome)
    assert all(len(row) == len(headers) for row in rows)
    outcome.write(tmp_path / "outcome.json")
    assert Outcome.read(tmp_path / "outcome.json") == outcome
    assert outcome.title in markdown(outcome)
    if isinstance(study, AbstractFigure):
        pytest.importorskip("matplotlib")
        study.plot(outcome, tmp_path / "plot.png")
        content = (tmp_path / "plot.png").read_bytes()
        assert content[:8] == b"\x89PNG\r\n\x1a\n"
        width, height = struct.unpack(">2I", content[16:24])
        assert width > 400 and height > 300


@pytest.mark.parametrize("name", list(STUDIES))
def test_each_says_what_the_paper_found_and_what_is_done_here(name: str) -> None:
    study = STUDIES[name]
    number = name.partition("-")[2]
    assert study.is_trained or (study.title.startswith(("Table", "Figure")) and f" {number}:" in study.title)
    assert study.finding.endswith((".", ").")) and study.how.endswith(".")
    assert study.__doc__


def test_all_the_tables_and_figures_that_were_asked_for() -> None:
    assert isinstance(STUDIES, Registry)
    assert sorted(STUDIES, key=place) == [
        *(f"table-{number}" for number in (1, 2, 3, 4, 5, 6, 8, 10)), *(f"figure-{number}" for number in (1, 2, 3, 4)),
        "lsq-table", "sat-table",
    ]  # fmt: skip


@pytest.mark.parametrize("name", [name for name in STUDIES if issubclass(STUDIES[name], AbstractTable)])
def test_the_papers_figures_stand_in_its_rows_and_no_others(name: str) -> None:
    lines = STUDIES[name]().lines(TINY)
    for line in lines:
        published = [cell.published for cell in line.cells.values()]
        if line.is_ours:
            assert not any(published)
        else:
            assert any(published)
    assert lines[0].cells


def test_table_1_counts_what_is_better_than_nearest(small: Subject) -> None:
    outcome = STUDIES["table-1"]().run(Laboratory(small, TINY))
    draws, (nearest,) = outcome.points["stochastic"], outcome.points["nearest"]
    assert len(draws) == TINY.num_draws
    assert outcome.entry("Stochastic").values == tuple(draws)
    assert outcome.entry("Stochastic (best)").mean == max(draws)
    assert outcome.entry("Nearest").values == (nearest,)
    assert outcome.verdict[0].startswith(f"{sum(draw > nearest for draw in draws)} of {TINY.num_draws} draws")


def test_figure_1_has_both_costs_of_every_draw(small: Subject) -> None:
    """Costs of a quadratic form that is not negative; nearest has its own."""
    points = STUDIES["figure-1"]().run(Laboratory(small, TINY)).points
    for name in ("task_cost", "local_cost", "top1", "loss"):
        assert len(points[name]) == TINY.num_draws and len(points[f"nearest_{name}"]) == 1
    assert min(points["task_cost"] + points["local_cost"]) > 0


def test_figure_3_by_hand(digits: Subject) -> None:
    """Of a network rounded up everywhere: up where nearest is down, and nowhere else."""
    result = hs.quantize(digits.model, digits.calibration, Cell("ceil", only_first=True).recipe(4), samples=8)
    layer, float_layer = weighted_layers(result.model)[0], weighted_layers(result.float_model)[0]
    found = moves(layer, result.model, float_layer, result.float_model)
    assert bool(found.after.all()) and 0 < len(found.before) <= 24 * 9
    up, down = found.shares()
    assert up == pytest.approx(100 * float((found.before < 0.5).double().mean()), rel=1e-12) and down == 0


def test_figure_4_takes_other_images_where_there_are_any(small: Subject) -> None:
    """As far as there are so many: 70 of the network's own, 40 others."""
    subject = replace(small, other=hs.as_data(torch.rand(40, 1, 8, 8)))
    outcome = STUDIES["figure-4"]().run(Laboratory(subject, TINY.model_copy(update={"num_seeds": 1, "num_iterations": 1})))
    assert [row.label for row in outcome.rows] == ["Nearest, no images", "32 images", "64 images"]
    assert outcome.columns == ("AdaRound", "lattice", "AdaRound, other images", "lattice, other images")
    assert set(outcome.rows[2].entries) == {"AdaRound", "lattice"}
