"""``halfstep list``."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import Result

from halfstep.cli.listing import KINDS, REGISTRIES


@pytest.mark.parametrize("kind", REGISTRIES)
def test_every_registered_class_is_listed_with_its_first_line(halfstep: Callable[..., Result], kind: str, tmp_path: Path) -> None:
    file = tmp_path / "list.json"
    result = halfstep("list", kind, "--json", file)
    assert result.exit_code == 0
    written = json.loads(file.read_text())
    assert list(written) == [kind]
    assert list(written[kind]) == list(REGISTRIES[kind])
    for name, summary in written[kind].items():
        assert name in result.stdout
        assert summary, f"{kind}: {name} does not say what it is"
        assert summary.split()[0] in result.stdout


def test_all_kinds_are_listed_by_default(halfstep: Callable[..., Result]) -> None:
    result = halfstep("list")
    assert [kind for kind in KINDS if kind not in result.stdout] == []


def test_recipes_are_listed_with_their_descriptions(halfstep: Callable[..., Result], tmp_path: Path) -> None:
    file = tmp_path / "list.json"
    assert halfstep("list", "recipes", "--json", file).exit_code == 0
    recipes = json.loads(file.read_text())["recipes"]
    assert {"int8", "int8-per-tensor", "w4a8"} <= set(recipes)
    assert all(recipes.values())


def test_an_unknown_kind_names_the_closest(refuse: Callable[..., str]) -> None:
    assert refuse("list", "range") == "Error: There is no list of 'range'. Did you mean 'ranges'?"
