"""`evaluate` on everything that computes: a module, a program, a result, a graph, an ONNX file."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import halfstep as hs
import zoo
from halfstep.errors import DataError


def labelled(name: str = "residual", num_samples: int = 50) -> tuple[Tensor, Tensor]:
    """Samples with the float network's predictions as labels, every fifth of them wrong."""
    (x,) = zoo.ZOO[name].inputs(num_samples, seed=11)
    scores = zoo.eager(name, (x,))[0]
    labels = scores.argmax(1)
    labels[::5] = (labels[::5] + 1) % scores.shape[1]
    return x, labels


def test_a_module_and_its_graph() -> None:
    assert hs.evaluate(zoo.ZOO["residual"].model(), labelled()) == 80.0
    assert hs.evaluate(zoo.captured("residual"), labelled()) == 80.0


def test_an_exported_program() -> None:
    x, labels = labelled()
    program = torch.export.export(zoo.ZOO["residual"].model(), (x[:4],), dynamic_shapes=({0: torch.export.Dim("n", min=1)},))
    assert hs.evaluate(program, (x, labels)) == 80.0


def test_a_result_and_its_onnx_file(tmp_path: Path) -> None:
    result = zoo.quantized("residual")
    hs.export.onnx(result, tmp_path / "model.onnx")
    simulated = hs.evaluate(result, labelled())
    # the labels are the float network's: each of 50 decisions that 8 bits overturn costs 2 points; untrained networks have narrow margins
    assert 68.0 <= simulated <= 90.0
    exported = hs.evaluate(tmp_path / "model.onnx", labelled())
    assert abs(exported - simulated) <= 4.0  # ties may fall the other way in the runtime's kernels: two images
    assert hs.evaluate(str(tmp_path / "model.onnx"), labelled(), batch_size=7) == exported


def test_batches_of_any_size_weigh_the_same() -> None:
    model = zoo.ZOO["residual"].model()
    assert {hs.evaluate(model, labelled(), batch_size=size) for size in (1, 7, 50, 64)} == {80.0}
    assert hs.evaluate(zoo.captured("static_batch"), labelled("static_batch", 15)) == pytest.approx(100 * 12 / 15)


def test_a_metric_of_ones_own() -> None:
    x, labels = labelled()
    assert hs.evaluate(zoo.ZOO["residual"].model(), (x, labels), metric=lambda outputs, labels: torch.full((len(labels),), 3.0)) == 3.0


def test_the_first_output_counts() -> None:
    x, labels = labelled("dict_output")
    assert hs.evaluate(zoo.ZOO["dict_output"].model(), (x, labels)) == 80.0


def test_the_networks_mode_is_restored_and_eval_is_used() -> None:
    x, labels = labelled("dropout")
    model = zoo.ZOO["dropout"].model().train()
    assert hs.evaluate(model, (x, labels)) == 80.0 and model.training
    graph = zoo.captured("dropout").train()
    assert hs.evaluate(graph, (x, labels)) == 80.0 and graph.training


def test_without_labels() -> None:
    with pytest.raises(DataError, match="has no labels"):
        hs.evaluate(zoo.ZOO["residual"].model(), labelled()[0])


def test_inputs_that_do_not_fit(tmp_path: Path) -> None:
    x, labels = labelled()
    wrong = (x.permute(0, 2, 3, 1).contiguous(), labels)
    hs.export.onnx(zoo.quantized("residual"), tmp_path / "model.onnx")
    for model in (zoo.quantized("residual"), zoo.captured("residual")):
        with pytest.raises(DataError, match="must have the shape"):
            hs.evaluate(model, wrong)
    with pytest.raises(hs.HalfstepError):
        hs.evaluate(tmp_path / "model.onnx", wrong)
    with pytest.raises(hs.HalfstepError):
        hs.evaluate(zoo.ZOO["residual"].model(), wrong)


def test_top1() -> None:
    scores = torch.tensor([[1.0, 3.0, 2.0], [9.0, 1.0, 1.0]])
    assert hs.top1(scores, torch.tensor([1, 2])).tolist() == [100.0, 0.0]
    assert hs.top1({"scores": scores, "other": torch.ones(2)}, torch.tensor([1, 0])).tolist() == [100.0, 100.0]


def test_it_records_no_gradients() -> None:
    seen: list[bool] = []

    class Watching(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(3, 2)

        def forward(self, x: Tensor) -> Tensor:
            seen.append(torch.is_grad_enabled())
            return self.fc(x)

    hs.evaluate(Watching(), (torch.randn(4, 3), torch.zeros(4, dtype=torch.long)))
    assert seen == [False]
