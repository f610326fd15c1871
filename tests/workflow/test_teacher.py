"""A training may learn the answers of another network."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

import halfstep as hs
from halfstep.demo.network import digits_network
from halfstep.errors import HalfstepError, ModelError

OPTIONS = {"batch_size": 16, "batch_norm": "live", "learning_rate": 0.05}


class Shifted(nn.Module):
    """A teacher that calls every digit the next one."""

    def __init__(self) -> None:
        super().__init__()
        self.network = digits_network()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.network(x).roll(1, dims=1)


class Opposite(Shifted):
    """A teacher that calls every digit what it is not."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return -self.network(x)


def test_the_teachers_answers_are_learned_in_place_of_the_float_networks() -> None:
    data = hs.load_data("digits:calibration")
    result = hs.finetune(digits_network(), data, teacher=Shifted(), epochs=3, options=OPTIONS)
    inputs = torch.cat([batch.inputs[0] for batch in data.batches(64)])
    with torch.no_grad():
        learned, own = result.model(inputs).argmax(1), result.float_model(inputs).argmax(1)
    assert float((learned == (own + 1) % 10).float().mean()) > 0.8
    assert any("a Shifted" in note for note in result.record.notes)


def test_of_several_teachers_the_mean_is_learned() -> None:
    """The mean of a network's scores and their opposites is 0: every class is as likely as any other."""
    data, own = hs.load_data("digits:calibration"), digits_network()
    result = hs.finetune(own, data, teacher=[own, Opposite()], epochs=3, options=OPTIONS)
    inputs = torch.cat([batch.inputs[0] for batch in data.batches(64)])
    with torch.no_grad():
        assert float(result.model(inputs).softmax(1).max(1).values.mean()) < 0.3 < float(own(inputs).softmax(1).max(1).values.mean())
    assert any("DigitsNet, Opposite" in note for note in result.record.notes)


def test_no_teacher_in_a_list_is_refused() -> None:
    with pytest.raises(ModelError, match="list of teachers is empty"):
        hs.finetune(digits_network(), hs.load_data("digits:calibration"), teacher=[], epochs=1, options=OPTIONS)


def test_another_teacher_cannot_go_on_with_a_run(tmp_path: Path) -> None:
    data = hs.load_data("digits:calibration")

    def stop(phase: str, done: float, total: int | None) -> None:
        if phase == "finetune" and done >= 3:
            raise KeyboardInterrupt

    options = OPTIONS | {"checkpoint_minutes": 0}
    with pytest.raises(KeyboardInterrupt):
        hs.finetune(digits_network(), data, teacher=Shifted(), epochs=1, options=options, checkpoint=tmp_path / "kept", progress=stop)
    with pytest.raises(HalfstepError, match="teacher"):
        hs.finetune(digits_network(), data, epochs=1, options=options, checkpoint=tmp_path / "kept", resume=True)


@pytest.mark.parametrize(
    ("teacher", "message"),
    [
        (nn.Sequential(nn.Flatten(), nn.Linear(64, 12)), "trained for the same classes"),
        (nn.Sequential(nn.Flatten(), nn.Linear(65, 10)), "does not take the inputs"),
    ],
)
def test_a_teacher_that_does_not_fit_is_refused(teacher: nn.Module, message: str) -> None:
    with pytest.raises(ModelError, match=message):
        hs.finetune(digits_network(), hs.load_data("digits:calibration"), teacher=teacher, epochs=1, options=OPTIONS)
