"""What holds after every step, in whole trainings: it must take effect, and survive an interruption."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import halfstep as hs
from halfstep.demo.network import digits_network
from halfstep.errors import RecipeError

RECIPE = {
    "name": "w3a3",
    "scheme": {"weights": {"type": "int3"}, "activations": {"type": "uint3", "symmetric": False}, "inputs": "uint8", "addends": "uint8"},
    "steps": [
        "fold_batch_norm",
        "place_quantizers",
        "calibrate",
        "round",
        {"finetune": {"epochs": 2, "batch_size": 64, "start_weights": "float", "checkpoint_minutes": 0}},
    ],
}
FREEZING = {"start": 0.02, "end": 0.001, "momentum": 0.05}


class StoppedError(Exception):
    """In the middle of a training."""


def trained(options: dict[str, Any], folder: Path | None = None, stop: int | None = None, resume: bool = False) -> hs.Result:
    def progress(phase: str, done: float, total: int | None) -> None:
        if phase == "finetune" and done == stop:
            raise StoppedError

    recipe = hs.Recipe.parse(RECIPE).with_step("finetune", options)
    data = hs.load_data("digits:calibration")
    return hs.finetune(digits_network(), data, recipe, checkpoint=folder, resume=resume, progress=progress)


@pytest.mark.parametrize(
    ("options", "stops"),
    [
        ({"freezing": FREEZING, "learning_rate": 0.03, "average": 0.5}, [6]),
        ({"gradual": [8, 4], "freezing": FREEZING, "learning_rate": 0.03}, [3, 4]),  # 8 bits before step 3, 4 bits before step 5
        ({"gradual": [6], "average": 0.5, "prune": {"until": 0.9}}, [7]),
        ({"prune": {"pattern": "channel"}, "freezing": FREEZING, "learning_rate": 0.03}, [3]),
    ],
    ids=["freezing", "gradual-freezing", "gradual-prune", "prune-freezing"],
)
def test_an_interrupted_run_goes_on_to_the_same_bytes(options: dict[str, Any], stops: list[int], tmp_path: Path) -> None:
    whole = trained(options)
    for number, stop in enumerate(stops):
        with pytest.raises(StoppedError):
            trained(options, tmp_path / "kept", stop, resume=number > 0)
    resumed = trained(options, tmp_path / "kept", resume=True)
    assert resumed.record.notes == whole.record.notes
    expected = whole.model.state_dict()
    assert all(torch.equal(tensor, expected[name]) for name, tensor in resumed.model.state_dict().items())


def test_frozen_weights_are_reported() -> None:
    note = trained({"freezing": FREEZING, "learning_rate": 0.03}).record.notes[-1]
    share = float(note.partition(" %")[0])
    assert note.endswith("of the weights were frozen on their codes.")
    assert 0 < share < 100


def test_codes_that_would_not_stay_are_not_frozen() -> None:
    with pytest.raises(RecipeError, match=r"Codes of 'sat' cannot be frozen.*lsq"):
        trained({"freezing": {}, "weights": "sat"})
    with pytest.raises(RecipeError, match=r"no option 'freezing.strat'.*'start'"):
        trained({"freezing": {"strat": 0.1}})
