"""The costs of the first layer against what they stand for."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from halfstep.graph.capture import capture
from halfstep.studies.costs import FirstLayerCosts


def network() -> nn.Sequential:
    torch.manual_seed(3)
    return nn.Sequential(nn.Conv2d(2, 3, 3, padding=1), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 4)).eval()


@pytest.fixture
def x(generator: torch.Generator) -> torch.Tensor:
    return torch.randn(6, 2, 4, 4, generator=generator)


def test_the_local_cost_is_the_mean_square_of_the_change_of_the_output(x: torch.Tensor) -> None:
    """Summed over channels, averaged over samples and positions; in two batches."""
    model, changed = network(), network()
    changed[0].weight.data += 0.1 * torch.randn(3, 2, 3, 3)
    costs = FirstLayerCosts.gather(capture(model, (x,)), [(x[:4],), (x[4:],)])
    _, local_cost = costs.of(capture(changed, (x,)))
    with torch.no_grad():
        difference = F.conv2d(x, changed[0].weight - model[0].weight, padding=1)
    # float32 sums of some 18 products each: 1e-5 is a hundred roundings
    assert local_cost == pytest.approx(float(difference.square().sum(1).mean()), rel=1e-5)


def test_the_task_cost_is_the_second_derivative_along_the_change(x: torch.Tensor) -> None:
    """The network is linear in this weight: along Δw the loss has the second derivative ΔwᵀHΔw."""
    model, changed = network(), network()
    change = 0.1 * torch.randn(3, 2, 3, 3)
    changed[0].weight.data += change
    task_cost, _ = FirstLayerCosts.gather(capture(model, (x,)), [(x,)]).of(capture(changed, (x,)))
    double, labels = model.double(), model(x.double()).argmax(1)

    def loss(t: torch.Tensor) -> torch.Tensor:
        weight = double[0].weight + t * change.double()
        z = F.conv2d(x.double(), weight, double[0].bias, padding=1)
        return F.cross_entropy(double[3](z.mean((2, 3))), labels)

    expected = torch.autograd.functional.hessian(loss, torch.zeros((), dtype=torch.float64))
    assert task_cost == pytest.approx(float(expected), rel=1e-4)  # gradients in float32, of which no two cancel to less than a thousandth


def test_no_change_costs_nothing(x: torch.Tensor) -> None:
    graph = capture(network(), (x,))
    assert FirstLayerCosts.gather(graph, [(x,)]).of(graph) == (0.0, 0.0)
