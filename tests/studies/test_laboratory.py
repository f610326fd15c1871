"""Runs: what they depend on, that they are kept, and that they are made once."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import halfstep as hs
from halfstep.quantizers import UniformQuantizer
from halfstep.studies import Cell, Laboratory, Settings, Subject
from halfstep.studies import laboratory as module

SETTINGS = Settings(num_seeds=2, num_samples=32)
NEAREST, STOCHASTIC = Cell("nearest", is_random=False), Cell("stochastic")


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The recipes and options of every call of `quantize`."""
    calls: list[Any] = []

    def quantize(model: Any, data: Any, recipe: Any, **options: Any) -> Any:
        calls.append((recipe, options, data))
        return hs.quantize(model, data, recipe, **options)

    monkeypatch.setattr(module, "quantize", quantize)
    return calls


def test_seeds_vary_what_is_random_and_nothing_else(small: Subject, counted: list[Any]) -> None:
    (fixed,), drawn = Laboratory(small, SETTINGS).measure("table-1", [NEAREST, STOCHASTIC])
    assert len(drawn) == 2 and drawn[0] != drawn[1]
    assert [options["seed"] for _, options, _ in counted] == [0, 0, 1]
    assert fixed.top1 == hs.evaluate(hs.quantize(small.model, small.calibration, NEAREST.recipe(4)), small.validation)


def test_a_run_is_made_once_and_kept(small: Subject, counted: list[Any], tmp_path: Path) -> None:
    first = Laboratory(small, SETTINGS, tmp_path)
    found = first.measure("table-1", [STOCHASTIC])
    assert first.measure("table-2", [STOCHASTIC, replace(STOCHASTIC)])[1] == found[0]
    assert len(counted) == 2
    assert Laboratory(small, SETTINGS, tmp_path, resume=True).measure("table-1", [STOCHASTIC]) == found
    assert len(counted) == 2
    assert len(list(tmp_path.glob("*.json"))) == 2
    again = Laboratory(small, SETTINGS, tmp_path).measure("table-1", [STOCHASTIC])  # without resume: made again
    assert len(counted) == 4
    assert [run.top1 for run in again[0]] == [run.top1 for run in found[0]]


def test_an_interrupted_study_goes_on(small: Subject, counted: list[Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second run fails; resumed, only that one is made."""
    broken = Laboratory(small, SETTINGS, tmp_path)
    evaluate, calls = module.evaluate, iter([False, True])

    def evaluate_once(*arguments: Any) -> float:
        if next(calls):
            raise KeyboardInterrupt
        return evaluate(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(module, "evaluate", evaluate_once)
        with pytest.raises(KeyboardInterrupt):
            broken.measure("table-1", [STOCHASTIC])
    Laboratory(small, SETTINGS, tmp_path, resume=True).measure("table-1", [STOCHASTIC])
    assert [options["seed"] for _, options, _ in counted] == [0, 1, 1]


@pytest.mark.parametrize(
    "change",
    [{"num_samples": 16}, {"weight_range": "min_max"}, {"only_first": True}, {"method": "floor"}, {"then": ("correct_bias",)}],
)
def test_whatever_matters_is_in_the_key(small: Subject, counted: list[Any], change: dict[str, Any]) -> None:
    laboratory = Laboratory(small, SETTINGS)
    laboratory.run(NEAREST)
    laboratory.run(replace(NEAREST, **change))
    assert len(counted) == 2


def test_other_images_are_calibrated_on(small: Subject, counted: list[Any]) -> None:
    other = hs.as_data(torch.rand(40, 1, 8, 8))
    laboratory = Laboratory(replace(small, other=other), SETTINGS)
    laboratory.run(NEAREST)
    laboratory.run(replace(NEAREST, is_other=True))
    assert [data for _, _, data in counted] == [small.calibration, other]


def test_a_method_that_is_not_there_has_a_reason(small: Subject) -> None:
    """A missing optional package says so in the same way."""
    found = Laboratory(small, SETTINGS).run(Cell("nearset"))
    assert found.reason is not None and "nearest" in found.reason


def test_progress_counts_runs(small: Subject) -> None:
    told: list[tuple[str, float, int | None]] = []
    laboratory = Laboratory(small, SETTINGS, progress=lambda *arguments: told.append(arguments))
    laboratory.measure("table-1", [NEAREST, Cell("lattice", only_first=True)])
    assert {name for name, _, _ in told} == {"table-1"}
    assert {total for _, _, total in told} == {3}
    shares = [done for _, done, _ in told]
    assert shares == sorted(shares) and shares[0] == 0 and shares[-1] == 3


def test_a_damaged_file_of_a_run_is_made_again(small: Subject, counted: list[Any], tmp_path: Path) -> None:
    Laboratory(small, SETTINGS, tmp_path).run(NEAREST)
    (file,) = tmp_path.glob("*.json")
    stored = json.loads(file.read_text())
    file.write_text(json.dumps(stored | {"key": stored["key"] | {"seed": 7}}))
    Laboratory(small, SETTINGS, tmp_path, resume=True).run(NEAREST)
    file.write_text("{")
    Laboratory(small, SETTINGS, tmp_path, resume=True).run(NEAREST)
    assert len(counted) == 3


def test_the_recipe_is_the_papers_setup(digits: Subject) -> None:
    """One scale a tensor, the whole symmetric range of codes, activations in float; only the first layer where asked."""
    result = hs.quantize(digits.model, digits.calibration, NEAREST.recipe(4), samples=32)
    grids = [layer.weight for layer in result.record.layers if layer.weight is not None]
    assert len(grids) == 8
    quantizers = [module for module in result.model.modules() if isinstance(module, UniformQuantizer)]
    assert [(each.grid, each.scale.ndim) for each in quantizers] == [(hs.Grid(4, True), 0)] * 8
    first = hs.quantize(digits.model, digits.calibration, replace(NEAREST, only_first=True).recipe(2), samples=32)
    assert [layer.name for layer in first.record.layers if layer.weight is not None] == ["stem.conv"]
