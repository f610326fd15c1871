"""What the network as given answers is held against every graph that is made of it."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn
from torch.fx import GraphModule

import zoo
from halfstep.errors import ModelError
from halfstep.graph.capture import capture
from halfstep.graph.edit import tensor_named
from halfstep.graph.operators import weighted_layers
from halfstep.graph.witness import Witness, difference, first_that_differs


def witnessed(name: str = "residual") -> tuple[GraphModule, Witness]:
    graph = capture(zoo.ZOO[name].model(), zoo.ZOO[name].inputs())
    return graph, graph.meta["witness"]


@pytest.mark.parametrize("name", zoo.NAMES)
def test_every_network_of_the_zoo_is_confirmed(name: str) -> None:
    _, witness = witnessed(name)
    # Float32 sums in another order: 2^-24 of the terms, a few hundred of them at most.
    assert witness.difference <= 1e-5 and not witness.changes


def test_the_difference_is_relative_to_the_largest_magnitude() -> None:
    assert difference([torch.tensor([0.0, 4.0])], [torch.tensor([1.0, 4.0])]) == 0.25
    assert difference([torch.tensor([1.0]), torch.tensor([10.0])], [torch.tensor([1.5]), torch.tensor([11.0])]) == 0.5
    assert difference([torch.zeros(2)], [torch.tensor([0.0, 0.5])]) == 0.5  # there is no magnitude to be relative to


def test_what_is_no_number_must_be_no_number_in_both() -> None:
    odd = torch.tensor([torch.nan, torch.inf, 1.0])
    assert difference([odd], [odd.clone()]) == 0
    assert difference([odd], [torch.tensor([0.0, torch.inf, 1.0])]) == torch.inf
    assert difference([odd], [torch.tensor([torch.nan, 3.0, 1.0])]) == torch.inf
    assert difference([torch.ones(2)], [torch.ones(3)]) == torch.inf
    assert difference([torch.ones(2)], []) == torch.inf
    assert difference([torch.ones(0)], [torch.ones(0)]) == 0


def test_a_changed_weight_is_found_at_its_layer() -> None:
    graph, witness = witnessed()
    changed = weighted_layers(graph)[1]
    with torch.no_grad():
        graph.get_parameter(str(changed.weight.target)).mul_(1.1)
    found = witness.hold(graph, "some_step", is_exact=True)
    assert found is not None and found.endswith(f"from '{changed.name}' on")


def test_a_change_on_purpose_is_measured_and_the_next_step_compared_with_it() -> None:
    graph, witness = witnessed()
    with torch.no_grad():
        graph.get_parameter(str(weighted_layers(graph)[0].weight.target)).mul_(1.1)
    assert witness.hold(graph, "some_step", is_exact=False) is None
    assert witness.changes["some_step"] > 1e-3
    assert witness.hold(graph, "another", is_exact=True) is None
    assert witness.difference <= 1e-5


class Scaled(nn.Module):
    """Two linear layers with a ReLU between."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(4, 6), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.second(self.first(x).relu())


def test_what_one_layer_scales_and_the_next_takes_back_is_not_blamed() -> None:
    graph = capture(Scaled(), (torch.randn(8, 4),))
    witness: Witness = graph.meta["witness"]
    with torch.no_grad():
        for name, factor in (("first.weight", 2.0), ("first.bias", 2.0), ("second.weight", 0.5)):
            tensor_named(graph, name).mul_(factor)
    assert witness.hold(graph, "scaling", is_exact=True) is None
    with torch.no_grad():
        tensor_named(graph, "second.bias").add_(1.0)
    found = witness.hold(graph, "shifting", is_exact=True)
    assert found is not None and found.endswith("from 'second' on")


class Cancelling(nn.Module):
    """Subtracts a mean of a million from what differs by ones: float32 keeps one digit of it."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(64, 8)
        with torch.no_grad():
            self.layer.weight.fill_(1e6 / 64).add_(torch.randn(8, 64))
            self.layer.bias.fill_(-1e6)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x)


def test_a_network_that_loses_digits_may_lose_them_in_another_order() -> None:
    torch.manual_seed(0)
    graph = capture(Cancelling(), (1 + 1e-5 * torch.randn(8, 64),))
    witness: Witness = graph.meta["witness"]
    weight = tensor_named(graph, "layer.weight")
    with torch.no_grad():
        weight.mul_(1 + 2**-23)  # one unit in the last place, as a step that rounds a weight once more may change it
    assert witness.hold(graph, "rounding", is_exact=True) is None
    assert witness.allowed > 1e-4


class Centred(nn.Module):
    """Means of what has no mean, 1e-8, made larger by a layer."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(1, 4, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.layer((x - x.mean(-1, keepdim=True)).mean(-1, keepdim=True))
        return y


def test_an_output_of_rounding_errors_alone_is_not_compared() -> None:
    """But a graph that makes something of it is found, and so is one that makes nothing of something."""
    x = torch.randn(8, 64)
    graph = capture(Centred(), (x,))
    witness = graph.meta["witness"]
    witness.answers = [-answer for answer in witness.answers]
    assert witness.confirm(graph) is None
    something = [torch.randn(8, 4)]
    assert Witness((x,), something).confirm(graph) is not None
    wide = capture(nn.Linear(64, 4, bias=False), (x,))
    assert Witness((x,), witness.answers).confirm(wide) is not None


class Noisy(nn.Module):
    """Draws random numbers behind its second layer."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.third = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.second(self.first(x))
        return self.third(x + torch.rand(4))


def test_a_network_that_is_recorded_wrongly_is_refused_with_the_place() -> None:
    with pytest.raises(ModelError, match=r"computes something else than the model itself: .* from 'third' on"):
        capture(Noisy(), (torch.randn(8, 4),))


def test_an_exported_program_is_compared_too() -> None:
    model, inputs = Scaled().eval(), (torch.randn(8, 4),)
    program = torch.export.export(model, inputs)
    assert capture(program, inputs).meta["witness"].difference <= 1e-6


def test_the_first_that_differs_is_the_output_where_no_tensor_can_be_compared() -> None:
    graph, _ = witnessed()
    assert first_that_differs(graph, {}, {}, 1e-4) == "output"


def test_the_model_is_left_without_hooks() -> None:
    model = Scaled()
    before = copy.deepcopy(model.state_dict())
    capture(model, (torch.randn(8, 4),))
    assert not any(module._forward_hooks for module in model.modules())
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
