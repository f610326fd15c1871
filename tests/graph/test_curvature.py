"""The second derivative of the task loss: against autograd on the user's own module, and where the two methods must agree."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.autograd.functional import hessian
from torch.func import functional_call
from torch.fx import Node
from torch.nn import functional as F

import zoo
from halfstep.errors import GraphError, RecipeError
from halfstep.graph import curvature
from halfstep.graph.capture import capture
from halfstep.graph.curvature import task_curvature
from halfstep.graph.edges import behind_quantizer
from halfstep.graph.operators import weighted_layers


def weight_of(graph: torch.fx.GraphModule, index: int) -> Node:
    node = weighted_layers(graph)[index].weight
    return behind_quantizer(node)


def by_autograd(model: nn.Module, name: str, x: Tensor, labels: Tensor | None = None) -> Tensor:
    """The second derivative of the mean cross-entropy in the parameter ``name``, in float64, of the module itself."""
    model, x = model.double().requires_grad_(False), x.double()
    target, weight = model(x).argmax(1) if labels is None else labels, model.get_parameter(name)
    found: Tensor = hessian(lambda w: F.cross_entropy(functional_call(model, {name: w}, (x,)), target), weight)
    return found.reshape(weight.numel(), weight.numel())


# float32 against float64 through a few small layers: sums of some hundred terms, 1e-5 of the largest entry
def assert_equal(found: Tensor, expected: Tensor) -> None:
    assert float((found - expected).abs().max()) <= 1e-5 * float(expected.abs().max())


@pytest.mark.parametrize("method", ["gauss_newton", "hessian"])
@pytest.mark.parametrize(
    ("member", "index", "name"), [("conv_bn_relu", 0, "0.weight"), ("residual", 0, "conv1.weight"), ("depthwise", 1, "3.weight")]
)
def test_both_are_the_hessian_where_the_network_is_piecewise_linear(member: str, index: int, name: str, method: str) -> None:
    """ReLU and ReLU6: the logits have no second derivative in one layer's weight. Batches of 4 and 2, as of 6."""
    graph, (x,) = zoo.captured(member), zoo.ZOO[member].inputs(6)
    found = task_curvature(graph, weight_of(graph, index), [(x[:4],), (x[4:],)], method)  # type: ignore[arg-type]
    assert found.dtype == torch.float64 and torch.equal(found, found.T)
    assert_equal(found, by_autograd(zoo.ZOO[member].model(), name, x))


def smooth() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(5, 6), nn.Tanh(), nn.Linear(6, 3)).eval()


def test_a_smooth_network_depends_on_the_label_in_the_hessian_alone(generator: torch.Generator) -> None:
    x, labels = torch.randn(9, 5, generator=generator), torch.tensor([0, 1, 2] * 3)
    graph = capture(smooth(), (x,))
    node, batches = weight_of(graph, 0), [(x[:5],), (x[5:],)]
    assert_equal(task_curvature(graph, node, batches, "hessian"), by_autograd(smooth(), "0.weight", x))
    assert_equal(task_curvature(graph, node, batches, "hessian", labels), by_autograd(smooth(), "0.weight", x, labels))
    gauss_newton = task_curvature(graph, node, batches)
    assert torch.linalg.eigvalsh(gauss_newton)[0] >= -1e-6 * gauss_newton.abs().max()  # float32 rows; positive semidefinite else
    assert float((gauss_newton - by_autograd(smooth(), "0.weight", x, labels)).abs().max()) > 0.01 * float(gauss_newton.abs().max())


def test_gauss_newton_by_hand(generator: torch.Generator) -> None:
    """A single linear layer: H = E[(diag(p) - p pᵀ) ⊗ x xᵀ]."""
    model, x = nn.Linear(3, 4).eval(), torch.randn(7, 3, generator=generator)
    with torch.no_grad():
        p = torch.softmax(model(x), 1).double()
    inner = torch.diag_embed(p) - p[:, :, None] * p[:, None, :]
    expected = torch.einsum("nab,ni,nj->aibj", inner, x.double(), x.double()).reshape(12, 12) / 7
    graph = capture(model, (x,))
    assert_equal(task_curvature(graph, weight_of(graph, 0), [(x,)]), expected)


def test_a_weight_used_twice_counts_twice() -> None:
    """fc(fc(x)): the Gauss-Newton matrix of the whole map, from the module's own Jacobian."""
    graph, (x,) = zoo.captured("shared"), zoo.ZOO["shared"].inputs(3)
    model = zoo.ZOO["shared"].model().double().requires_grad_(False)
    weight, x64 = model.get_parameter("fc.weight"), x.double()
    jacobian = torch.func.jacrev(lambda w: functional_call(model, {"fc.weight": w}, (x64,)))(weight).reshape(3, 8, 64)
    p = torch.softmax(model(x64), 1).detach()
    inner = torch.diag_embed(p) - p[:, :, None] * p[:, None, :]
    expected = torch.einsum("nka,nkl,nlb->ab", jacobian, inner, jacobian) / 3
    node = behind_quantizer(weighted_layers(graph)[-1].weight)
    assert_equal(task_curvature(graph, node, [(x,)]), expected)


def test_a_fixed_batch_size_is_filled_up_without_a_trace() -> None:
    graph, (x,) = zoo.captured("static_batch"), zoo.ZOO["static_batch"].inputs(3)
    node = weight_of(graph, 0)
    pairs = [task_curvature(graph, node, [(sample,)]) for sample in x.split(1)]
    assert_equal(task_curvature(graph, node, [(x,)]), torch.stack(pairs).mean(0))


def test_the_graph_is_left_as_it_was() -> None:
    graph, (x,) = zoo.captured("residual"), zoo.ZOO["residual"].inputs()
    before = {name: tensor.clone() for name, tensor in graph.state_dict().items()}
    for method in ("gauss_newton", "hessian"):
        task_curvature(graph, weight_of(graph, 0), [(x,)], method)  # type: ignore[arg-type]
    assert all(torch.equal(tensor, before[name]) for name, tensor in graph.state_dict().items())
    assert all(parameter.grad is None and parameter.requires_grad for parameter in graph.parameters())


def test_too_large_a_weight_is_refused_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(curvature, "LARGEST_WEIGHT", 500)
    graph, (x,) = zoo.captured("residual"), zoo.ZOO["residual"].inputs()
    with pytest.raises(RecipeError, match=r"'conv2' has 576 weights.*objective: local"):
        task_curvature(graph, weight_of(graph, 1), [(x,)])


def test_outputs_that_are_no_classifier() -> None:
    graph, (x,) = zoo.captured("transposed"), zoo.ZOO["transposed"].inputs()
    with pytest.raises(GraphError, match=r"outputs are \[4, 2, .*objective: local"):
        task_curvature(graph, weight_of(graph, 0), [(x,)])


def test_a_parameter_that_no_layer_multiplies_by() -> None:
    graph, (x,) = zoo.captured("residual"), zoo.ZOO["residual"].inputs()
    bias = next(layer.bias for layer in weighted_layers(graph) if layer.bias is not None)
    with pytest.raises(GraphError, match="is not the weight"):
        task_curvature(graph, bias, [(x,)])
