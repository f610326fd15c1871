"""Tables of training with quantization in the loop, with next to nothing spent on them, and the float networks they start from."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

import halfstep as hs
from halfstep.cli import reproduce
from halfstep.errors import DataError
from halfstep.studies import STUDIES, Laboratory, LsqTable, Outcome, SatTable, Settings, Subject, TrainedCell, float_training, subject
from halfstep.studies.float_training import FloatPlan, load, store, train_to
from halfstep.studies.mobilenet_v1 import MobileNetV1
from halfstep.studies.page import cells, page
from halfstep.studies.trained_table import EPOCHS, INTEGERS, PARAMETERS, SIMULATED

TRAINED = [name for name in STUDIES if STUDIES[name].is_trained]
PLAN = FloatPlan(epochs=2, batch_size=8)


@pytest.fixture
def images() -> hs.data.Data:
    """Three classes: red, green and blue, with a little noise."""
    generator, labels = torch.Generator().manual_seed(0), torch.arange(24) % 3
    colours = torch.eye(3)[labels].view(24, 3, 1, 1)
    return hs.as_data((colours + 0.1 * torch.randn(24, 3, 32, 32, generator=generator), labels))


def test_mobilenet_is_the_papers() -> None:
    """At width 1 on 32 x 32 pixels, stride 1 in front: by hand 46,354,432 multiply-adds (0.9 + 13 blocks + 0.01 million)."""
    network, total = MobileNetV1().eval(), []

    def count(module: nn.Module, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
        assert isinstance(module, (nn.Conv2d, nn.Linear))
        total.append(module.weight.numel() * output[0, 0].numel())

    layers = [module for module in network.modules() if isinstance(module, (nn.Conv2d, nn.Linear))]
    for layer in layers:
        layer.register_forward_hook(count)
    assert network(torch.zeros(2, 3, 32, 32)).shape == (2, 10)
    assert len(layers) == 28 and sum(total) == 46_354_432
    assert sum(p.numel() for p in network.parameters()) == 3_217_226
    assert MobileNetV1(0.25).classifier.in_features == 256


def test_an_interrupted_training_ends_in_the_same_weights(images: hs.data.Data, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lines: list[str] = []
    whole = train_to(tmp_path / "whole.safetensors", 0.25, PLAN, images, images, False, lines.append)
    assert [line.partition(":")[0] for line in lines[:-1]] == ["Epoch 1 of 2", "Epoch 2 of 2"]
    monkeypatch.setattr(float_training, "_SECONDS", 0.0)

    def interrupt(line: str) -> None:
        raise KeyboardInterrupt

    path = tmp_path / "part.safetensors"
    with pytest.raises(KeyboardInterrupt):
        train_to(path, 0.25, PLAN, images, images, False, interrupt)
    assert not path.exists() and path.with_suffix(".checkpoint").is_dir()
    lines.clear()
    train_to(path, 0.25, PLAN, images, images, True, lines.append)
    assert lines[0] == "Training goes on at step 3 of 6." and not path.with_suffix(".checkpoint").exists()
    found = load(0.25, path).state_dict()
    assert all(torch.equal(tensor, found[name]) for name, tensor in whole.state_dict().items())


def test_training_learns(images: hs.data.Data, tmp_path: Path) -> None:
    """Three colours are easy: twice as good as chance, one in three, is the least."""
    lines: list[str] = []
    train_to(tmp_path / "a.safetensors", 0.25, FloatPlan(epochs=20, batch_size=8), images, images, False, lines.append)
    assert float(lines[-1].split()[1]) > 66


def test_a_file_of_something_else_is_refused(tmp_path: Path) -> None:
    store(MobileNetV1(0.25), tmp_path / "a.safetensors", {})
    with pytest.raises(DataError, match=r"does not hold a MobileNetV1 of width 0\.5"):
        load(0.5, tmp_path / "a.safetensors")


def test_a_mobilenet_is_looked_for_and_else_trained(images: hs.data.Data, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(subject, "mobilenet_data", lambda name: (images, images))
    monkeypatch.setattr(subject, "FloatPlan", lambda: PLAN)
    monkeypatch.setattr(subject, "_PROJECT", tmp_path / "nowhere")
    lines: list[str] = []
    trained = subject.load_subject("mobilenet_v1_0.25", out=tmp_path, tell=lines.append)
    assert "is trained for 2 epochs first" in lines[0]
    lines.clear()
    again = subject.load_subject("mobilenet_v1_0.25", out=tmp_path, tell=lines.append)
    assert lines == [] and isinstance(again.model, MobileNetV1) and isinstance(trained.model, MobileNetV1)
    assert torch.equal(again.model.classifier.weight, trained.model.classifier.weight)


@pytest.mark.parametrize("name", TRAINED)
def test_every_row_is_a_shipped_recipe_and_every_figure_has_a_row(name: str) -> None:
    study = STUDIES[name]()
    assert isinstance(study, (LsqTable, SatTable))
    for label, shipped in study.recipes.items():
        recipe = TrainedCell(shipped, 0.5).recipe(4)
        weights, activations = (recipe.scheme.weights.type, recipe.scheme.activations.type)
        assert f"{str(weights).strip('uint')}/{str(activations).strip('uint')}" == label.replace("1/", "2/")
        assert recipe.steps[-1]["finetune"]["epochs"] == 0.5  # type: ignore[index, call-overload]
    for network in (*float_training.WIDTHS, "resnet20", "digits"):
        assert set(study.published(network)) <= set(study.recipes)
    assert study.published("digits") == {} and study.networks


def test_a_table_from_start_to_end(digits: Subject, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One row: integers as the simulation, kept, read again, and printed with its own digits behind the point."""
    monkeypatch.setattr(SatTable, "recipes", {"4/8": "sat-w4a8"})
    settings, told = Settings(num_epochs=1.0), []
    outcome = SatTable().run(Laboratory(digits, settings, tmp_path / "runs", tell=told.append))
    assert [row.label for row in outcome.rows] == ["float", "4/8"]
    simulated, integers = (outcome.entry("4/8", column).mean for column in (SIMULATED, INTEGERS))
    assert simulated is not None and integers is not None and simulated > 90
    assert abs(simulated - integers) <= 0.1
    assert outcome.entry("float").mean == outcome.float_top1 and outcome.entry("4/8", EPOCHS).mean == 1
    assert outcome.verdict[0].startswith("Simulation and integers differ by 0.0")
    assert told and told[0].startswith("Epoch")
    headers, rows = cells(outcome)
    assert len(rows[0]) == len(headers) and f"{outcome.entry('float', PARAMETERS).mean:,.0f}" in rows[0]
    outcome.write(tmp_path / "outcome.json")
    assert Outcome.read(tmp_path / "outcome.json") == outcome
    assert "### digits\n" in page([(outcome, None)], "", {})
    monkeypatch.setattr(Laboratory, "_new", None)
    assert SatTable().run(Laboratory(digits, settings, tmp_path / "runs", resume=True)).rows == outcome.rows


def test_all_are_those_of_adaround_and_tables_have_networks_of_their_own(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert not set(reproduce._names(["all"])) & set(TRAINED)
    monkeypatch.setattr(reproduce, "data_folder", lambda: tmp_path)
    found = reproduce._plan(["sat-table", "lsq-table"], None)
    assert found == {"mobilenet_v1_1.0": ["sat-table", "lsq-table"], "mobilenet_v1_0.75": ["sat-table"], "resnet20": ["lsq-table"]}
    assert reproduce._plan(["sat-table"], ["nin"]) == {"nin": ["sat-table"]}
