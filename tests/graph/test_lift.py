"""Batch norms and dropouts of a graph mean in `train()` and `eval()` what they mean in the model."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import zoo
from halfstep.graph.capture import capture
from halfstep.graph.edit import named_state


@pytest.mark.parametrize(
    "name", ["conv_bn_relu", "residual", "slice_assignment", "linear_bn", "conv1d", "conv3d", "transposed", "bn_twice"]
)
def test_batch_norms_train_as_in_the_model(name: str) -> None:
    """The same forward pass in training mode leaves the same running statistics."""
    graph, model, inputs = zoo.captured(name).train(), zoo.ZOO[name].model().train(), zoo.ZOO[name].inputs(16)
    before = {key: value.clone() for key, value in model.state_dict().items() if "running" in key}
    assert zoo.relative(graph(*inputs), model(*inputs)) <= 1e-5
    mine = named_state(graph)
    for key, value in model.state_dict().items():
        if "running" in key:
            assert not torch.equal(value, before[key])
            assert torch.allclose(mine[key], value, rtol=1e-5, atol=1e-6), key
        if "num_batches_tracked" in key and name != "slice_assignment":
            assert mine[key] == value


def test_batch_norms_are_modules_under_the_users_names() -> None:
    graph, model = zoo.captured("residual"), zoo.ZOO["residual"].model()
    for path in ("bn1", "bn2", "bn3"):
        mine, theirs = zoo.module_named(graph, path), model.get_submodule(path)
        assert type(mine) is type(theirs) and (mine.eps, mine.momentum, mine.affine) == (theirs.eps, theirs.momentum, theirs.affine)


def test_options_of_a_batch_norm_survive() -> None:
    model = nn.Sequential(
        nn.Conv2d(2, 3, 1), nn.BatchNorm2d(3, eps=0.01, momentum=0.3), nn.BatchNorm2d(3, momentum=None, affine=False)
    ).eval()
    graph = capture(model, (torch.randn(2, 2, 3, 3),))
    first, second = zoo.module_named(graph, "1"), zoo.module_named(graph, "2")
    assert (first.eps, first.momentum) == (0.01, 0.3)
    assert not second.affine


def test_a_graph_in_eval_mode_does_not_move() -> None:
    graph, inputs = zoo.captured("residual").eval(), zoo.ZOO["residual"].inputs()
    before = {key: value.clone() for key, value in graph.state_dict().items()}
    graph(*inputs)
    assert all(torch.equal(before[key], value) for key, value in graph.state_dict().items())


@pytest.mark.parametrize("name", ["dropout", "dropout2d"])
def test_dropout_drops_in_training_mode_only(name: str) -> None:
    graph, inputs = zoo.captured(name), zoo.ZOO[name].inputs()
    graph.eval()
    assert torch.equal(graph(*inputs), graph(*inputs))
    graph.train()
    assert not torch.equal(graph(*inputs), graph(*inputs))


def test_both_kinds_of_dropout_keep_their_probability() -> None:
    graph = zoo.captured("dropout")
    assert sorted(module.p for module in graph.modules() if isinstance(module, nn.Dropout)) == [0.3, 0.4]
    assert zoo.module_named(graph, "drop").p == 0.4
