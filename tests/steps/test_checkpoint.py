"""A checkpoint holds what was finished, for the run it belongs to and no other."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from halfstep.errors import HalfstepError
from halfstep.steps.checkpoint import Checkpoint

KEY: dict[str, object] = {"network": "a1", "seed": 0}


def test_what_was_written_is_read_by_a_run_that_resumes(tmp_path: Path) -> None:
    first = Checkpoint.start(tmp_path / "run", KEY, resume=False)
    assert first.read("3-round", "conv1") is None and not (tmp_path / "run").exists()
    first.write("3-round", "block.0/conv1", {"codes": torch.arange(4.0), "scale": torch.tensor(0.5)})
    again = Checkpoint.start(tmp_path / "run", KEY, resume=True).read("3-round", "block.0/conv1")
    assert again is not None and torch.equal(again["codes"], torch.arange(4.0)) and float(again["scale"]) == 0.5


def test_a_new_run_starts_empty(tmp_path: Path) -> None:
    Checkpoint.start(tmp_path / "run", KEY, resume=False).write("3-round", "conv1", {"codes": torch.zeros(1)})
    assert Checkpoint.start(tmp_path / "run", KEY, resume=False).read("3-round", "conv1") is None


def test_another_run_is_not_resumed(tmp_path: Path) -> None:
    Checkpoint.start(tmp_path / "run", KEY, resume=False).write("3-round", "conv1", {"codes": torch.zeros(1)})
    with pytest.raises(HalfstepError, match="had another seed: repeat its command with --resume"):
        Checkpoint.start(tmp_path / "run", {**KEY, "seed": 1}, resume=True)


def test_a_damaged_entry_counts_as_missing(tmp_path: Path) -> None:
    checkpoint = Checkpoint.start(tmp_path / "run", KEY, resume=False)
    checkpoint.write("3-round", "conv1", {"codes": torch.zeros(100)})
    file = next((tmp_path / "run").glob("*.safetensors"))
    file.write_bytes(file.read_bytes()[:50])
    assert checkpoint.read("3-round", "conv1") is None


def test_a_folder_of_something_else_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(HalfstepError, match="holds something else"):
        Checkpoint.start(tmp_path, KEY, resume=False)
    assert (tmp_path / "thesis.txt").read_text() == "mine"


def test_a_complete_run_leaves_nothing(tmp_path: Path) -> None:
    checkpoint = Checkpoint.start(tmp_path / "run", KEY, resume=False)
    checkpoint.write("3-round", "conv1", {"codes": torch.zeros(1)})
    checkpoint.clear()
    assert not (tmp_path / "run").exists()


def test_each_name_has_an_entry_of_its_own(tmp_path: Path) -> None:
    """However alike they look as the name of a file, and however long they are."""
    checkpoint = Checkpoint.start(tmp_path / "run", KEY, resume=False)
    names = ["a/b", "a_b", "a:b", "", "x" * 300, "x" * 301, "層" * 300, "../../a", "a\\b"]
    for index, name in enumerate(names):
        checkpoint.write("3-round", name, {"codes": torch.tensor(index)})
    for index, name in enumerate(names):
        assert int((checkpoint.read("3-round", name) or {})["codes"]) == index
    assert {path.parent for path in tmp_path.rglob("*.safetensors")} == {tmp_path / "run"}
