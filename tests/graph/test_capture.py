"""`capture` on every network of the zoo: the same outputs, the user's model untouched, names the user knows."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

import zoo
from halfstep.errors import ModelError
from halfstep.graph.capture import capture
from halfstep.graph.check import check
from halfstep.graph.edit import named_state, tensor_named
from halfstep.graph.run import run

# The graph runs the very operators the model runs; torch's own functionalization may order a sum differently, which moves float32 by a
# few 2^-24 = 6e-8.
TOLERANCE = 1e-6


@pytest.mark.parametrize("name", zoo.NAMES)
def test_the_graph_computes_what_the_model_computes(name: str) -> None:
    inputs = zoo.ZOO[name].inputs(seed=3)
    outputs = zoo.leaves(run(zoo.captured(name), inputs))
    for output, expected in zip(outputs, zoo.eager(name, inputs), strict=True):
        assert zoo.relative(output, expected) <= TOLERANCE


@pytest.mark.parametrize("name", [name for name in zoo.NAMES if zoo.ZOO[name].batch_size is None])
@pytest.mark.parametrize("batch_size", [1, 7])
def test_any_batch_size_will_do(name: str, batch_size: int) -> None:
    graph = zoo.captured(name)
    assert graph.meta["batch_size"] is None and graph.meta["notes"] == []
    inputs = zoo.ZOO[name].inputs(batch_size, seed=4)
    for output, expected in zip(zoo.leaves(graph(*inputs)), zoo.eager(name, inputs), strict=True):
        assert zoo.relative(output, expected) <= 1e-5  # another batch size, another blocking of the matrix product: sums of 10^2 terms


@pytest.mark.parametrize("name", zoo.NAMES)
def test_names_are_there_and_unique(name: str) -> None:
    graph = zoo.captured(name)
    check(graph)
    names = [node.meta["name"] for node in graph.graph.nodes]
    assert all(names) and len(set(names)) == len(names)


@pytest.mark.parametrize("name", zoo.NAMES)
def test_parameters_keep_the_users_names(name: str) -> None:
    graph, model = zoo.captured(name), zoo.ZOO[name].model()
    mine = dict(model.named_parameters())
    kept = {key: value for key, value in named_state(graph).items() if key in mine}
    assert set(kept) == set(mine)
    assert all(torch.equal(kept[key], mine[key]) for key in mine)


def test_names_are_the_users() -> None:
    names = [node.meta["name"] for node in zoo.captured("residual").graph.nodes if node.op.startswith("call")]
    assert names == [
        "conv1", "bn1", "relu", "conv2", "bn2", "relu#2", "conv3", "bn3", "add", "relu#3", "pool", "flatten", "fc",
    ]  # fmt: skip


def test_an_operator_in_a_block_is_called_after_the_block() -> None:
    class Block(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x + x.abs()

    graph = capture(nn.Sequential(Block(), Block()), (torch.ones(2, 3),))
    assert [node.meta["name"] for node in graph.graph.nodes if node.op == "call_function"] == ["0:abs", "0:add", "1:abs", "1:add"]


@pytest.mark.parametrize("name", ["residual", "in_place", "slice_assignment", "dropout", "bn_twice"])
def test_the_model_is_left_as_it_was(name: str) -> None:
    model = zoo.ZOO[name].model()
    model.train()
    next(module for module in model.modules() if not list(module.children())).eval()
    modes = {path: module.training for path, module in model.named_modules()}
    state = copy.deepcopy(model.state_dict())
    parameters = dict(model.named_parameters())
    inputs = zoo.ZOO[name].inputs()
    shown = tuple(x.clone() for x in inputs)
    graph = capture(model, shown)
    with torch.no_grad():
        for parameter in graph.parameters():
            parameter.add_(1)
    assert {path: module.training for path, module in model.named_modules()} == modes
    assert all(torch.equal(state[key], value) for key, value in model.state_dict().items())
    assert all(parameters[key] is value for key, value in model.named_parameters())
    assert all(parameter.grad is None for parameter in parameters.values())
    assert all(torch.equal(a, b) for a, b in zip(inputs, shown, strict=True))


def test_a_model_in_training_mode_is_recorded_in_eval_mode() -> None:
    model, inputs = zoo.ZOO["dropout"].model().train(), zoo.ZOO["dropout"].inputs()
    assert zoo.relative(run(capture(model, inputs), inputs), zoo.eager("dropout", inputs)[0]) <= TOLERANCE


def test_a_fixed_batch_size_is_noted() -> None:
    graph = zoo.captured("static_batch")
    assert graph.meta["batch_size"] == 2
    (note,) = graph.meta["notes"]
    assert "batches of 2 only" in note
    assert "TORCH_LOGS" not in note, "a user can do nothing with torch's debugging flags"


def test_an_exported_program(tmp_path: object) -> None:
    inputs = zoo.ZOO["residual"].inputs()
    for shapes, batch_size in ((({0: Dim("n", min=1)},), None), (None, 4)):
        program = torch.export.export(zoo.ZOO["residual"].model(), inputs, dynamic_shapes=shapes)
        assert isinstance(program, ExportedProgram)
        before = {key: value.clone() for key, value in program.state_dict.items()}
        graph = capture(program, inputs)
        assert graph.meta["batch_size"] == batch_size
        assert zoo.relative(run(graph, inputs), zoo.eager("residual", inputs)[0]) <= TOLERANCE
        with torch.no_grad():
            for parameter in graph.parameters():
                parameter.zero_()
        assert all(torch.equal(before[key], value) for key, value in program.state_dict.items())


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("tensor", ["conv2.weight", "bn1.running_var"])
def test_weights_that_are_not_finite_are_refused_by_name(tensor: str, value: float) -> None:
    model = zoo.ZOO["residual"].model()
    with torch.no_grad():
        model.state_dict()[tensor].view(-1)[1] = value
    with pytest.raises(ModelError, match=f"'{tensor}' hold NaN or infinite"):
        capture(model, zoo.ZOO["residual"].inputs())
    program = torch.export.export(model, zoo.ZOO["residual"].inputs())
    with pytest.raises(ModelError, match=f"'{tensor}' hold NaN or infinite"):
        capture(program, zoo.ZOO["residual"].inputs())


def test_a_model_that_cannot_be_recorded() -> None:
    class Branching(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x if x.sum() > 0 else -x

    with pytest.raises(ModelError, match=r"cannot record Branching: .* data-dependent Python control flow"):
        capture(Branching(), (torch.ones(2, 3),))


def test_the_graph_trains_and_has_gradients() -> None:
    graph, inputs = zoo.captured("residual").train(), zoo.ZOO["residual"].inputs()
    graph(*inputs).square().mean().backward()
    assert all(parameter.grad is not None and torch.isfinite(parameter.grad).all() for parameter in graph.parameters())


def test_tensors_are_stored_in_order() -> None:
    """Turned weights and products with stored matrices: a run that is loaded has its tensors so, and kernels go by it."""

    class Turned(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer, self.matrix = nn.Conv2d(3, 4, 3).to(memory_format=torch.channels_last), nn.Parameter(torch.randn(4, 6))

        def forward(self, x: Tensor) -> Tensor:
            return self.layer(x).mean((2, 3)) @ self.matrix

    graph = capture(Turned(), (torch.randn(2, 3, 8, 8),))
    assert all(tensor.is_contiguous() for tensor in graph.state_dict().values())


def test_subnormal_weights_become_zero() -> None:
    """They change no result, and cost a hundred times the time of any other number."""
    network = nn.Linear(4, 2, bias=False)
    with torch.no_grad():
        network.weight.copy_(torch.tensor([[1e-39, 1.0, -1e-40, 1e-37], [2.0, 1e-45, 0.0, -3.0]]))
    graph = capture(network, (torch.ones(2, 4),))
    assert tensor_named(graph, "weight").tolist() == [[0.0, 1.0, 0.0, float(torch.tensor(1e-37))], [2.0, 0.0, 0.0, -3.0]]
    assert float(network.weight.detach()[0, 0]) != 0.0  # the user's own tensor is as it was
