"""The second derivative of the task loss in all weights of one layer: what rounding by the task loss starts from.

    gauss_newton   H = E[ Jᵀ (diag(p) - p pᵀ) J ]        p = softmax(f),  J = df / dw
    hessian        H = E[ d²(-log p_y) / dw² ]           y = the label, by default the network's own answer

f: the network's outputs (logits) [K]. w: the layer's weight, flattened. E: over samples. Equation (6) of Nagel et al. 2020, "Up or
down? Adaptive rounding for post-training quantization"; Gauss-Newton: Schraudolph 2002, "Fast curvature matrix-vector products for
second-order gradient descent", section 3.

The cross-entropy's own second derivative in f is diag(p) - p pᵀ whatever the label, so the two differ by (p - y) d²f / dw² alone. Where
the network is piecewise linear in this weight (ReLU, ReLU6, pooling, batch norm in eval mode; the weight used once) that term is 0
almost everywhere: Gauss-Newton is then exact, needs no labels, and takes K backward passes a batch where the other takes one for every
weight. Deviation from the paper: none where it is exact.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Literal

import torch
from torch import Tensor
from torch.func import vjp, vmap
from torch.fx import GraphModule, Node
from torch.nn import functional as F
from torch.utils import _pytree as pytree

from halfstep.errors import GraphError, RecipeError
from halfstep.graph.edges import behind_quantizer
from halfstep.graph.edit import attribute
from halfstep.graph.operators import WeightedLayer, weighted_layers
from halfstep.graph.run import Observer, cut
from halfstep.quantizers import in_float

LARGEST_WEIGHT = 20_000  # entries: their second derivative takes 3.2 GB


def task_curvature(
    graph: GraphModule,
    weight: Node,
    batches: Iterable[tuple[Tensor, ...]],
    method: Literal["gauss_newton", "hessian"] = "gauss_newton",
    labels: Tensor | None = None,
) -> Tensor:
    """H, float64 of shape [n, n] for the n entries that the attribute node ``weight`` reads, in float and over all samples.

    labels: int64 [number of samples], for ``hessian`` alone. Raises `RecipeError` where n is too large, `GraphError` where the network
    has no output of shape [N, K] or the layer's samples do not lie along the first axis.
    """
    layers = [layer for layer in weighted_layers(graph) if behind_quantizer(layer.weight) is weight]
    num_weights, num_samples = attribute(graph, weight).numel(), 0
    _refuse_large(layers, weight, num_weights)
    total = torch.zeros(num_weights, num_weights, dtype=torch.float64, device=attribute(graph, weight).device)
    with in_float(graph):
        for inputs in batches:
            for part, num_real in cut(graph, inputs):
                if method == "gauss_newton":
                    _add_gauss_newton(total, graph, layers, part, num_real)
                else:
                    chosen = None if labels is None else labels[num_samples : num_samples + num_real]
                    _add_hessian(total, graph, weight, part, num_real, chosen)
                num_samples += num_real
    return (total + total.T) / (2 * num_samples)


def _refuse_large(layers: list[WeightedLayer], weight: Node, num_weights: int) -> None:
    if not layers:
        raise GraphError(f"'{weight.meta['name']}' is not the weight of a convolution or linear layer, so it is not rounded.")
    if num_weights > LARGEST_WEIGHT:
        raise RecipeError(
            f"'{layers[0].name}' has {num_weights:,} weights: the second derivative of the task loss in them would take "
            f"{8e-9 * num_weights**2:,.1f} GB. Use the local error (objective: local) for it, or name only layers of up to "
            f"{LARGEST_WEIGHT:,} weights."
        )


class _Differentiable(Observer):
    """An `Observer` in which no tensor of the network itself takes a gradient."""

    def get_attr(self, target: Any, args: Any, kwargs: Any) -> Any:
        """The stored tensor, cut off."""
        value = super().get_attr(target, args, kwargs)
        return value.detach() if isinstance(value, Tensor) else value


def _add_gauss_newton(total: Tensor, graph: GraphModule, layers: list[WeightedLayer], inputs: tuple[Tensor, ...], num_real: int) -> None:
    """Add the sum over samples of Jᵀ (diag(p) - p pᵀ) J, as Aᵀ A with the rows A_k = sqrt(p_k) (J_k - sum_j p_j J_j)."""
    seen: dict[Node, Tensor] = {}
    probes: dict[Node, Tensor] = {}  # zeros added to the layers' outputs: what flows back to them is df / d(output)
    outputs = {layer.node for layer in layers}

    def see(node: Node, tensor: Tensor) -> Tensor:
        if node in outputs:
            probes[node] = torch.zeros_like(tensor).requires_grad_()
            tensor = tensor + probes[node]
        seen[node] = tensor
        return tensor

    nodes = outputs | {layer.input for layer in layers}
    with torch.enable_grad():
        logits = _logits(graph, _Differentiable(graph, nodes, see).run(*inputs), len(inputs[0]))
    p = torch.softmax(logits.detach(), 1)
    for k in range(logits.shape[1]):
        seed = p[:, k : k + 1].sqrt() * (F.one_hot(torch.tensor(k, device=p.device), logits.shape[1]) - p)
        flowing = torch.autograd.grad(logits, [probes[layer.node] for layer in layers], seed, retain_graph=True)
        pairs = zip(layers, flowing, strict=True)
        rows = torch.stack([_weight_gradients(graph, layer, seen[layer.input].detach(), flow) for layer, flow in pairs]).sum(0)[:num_real]
        total += (rows.T @ rows).double()


def _weight_gradients(graph: GraphModule, layer: WeightedLayer, x: Tensor, flowing: Tensor) -> Tensor:
    """[N, n]: of each sample alone, what ``flowing`` back to the layer's output means for its weight."""
    rest, weight = layer.node.args[3:], attribute(graph, behind_quantizer(layer.weight))
    kwargs = {name: value for name, value in layer.node.kwargs.items() if name not in ("input", "weight", "bias")}

    def of_one(x: Tensor, flow: Tensor) -> Tensor:
        call: Any = layer.node.target
        pull_back: Any = vjp(lambda w: call(x[None], w, None, *rest, **kwargs), weight)[1]
        found: Tensor = pull_back(flow[None])[0]
        return found

    if len(x) != len(flowing):
        raise GraphError(f"'{layer.name}' does not have its samples along the first axis. Use the local error (objective: local) for it.")
    return vmap(of_one)(x, flowing).flatten(1)


def _add_hessian(total: Tensor, graph: GraphModule, weight: Node, inputs: tuple[Tensor, ...], num_real: int, labels: Tensor | None) -> None:
    """Add the second derivative of the summed cross-entropy: the gradient's derivative, one entry after the other."""
    leaf = attribute(graph, weight).clone().requires_grad_()
    with torch.enable_grad():
        outputs = _Differentiable(graph, {weight}, lambda node, tensor: leaf).run(*inputs)
        logits = _logits(graph, outputs, len(inputs[0]))[:num_real]
        answers = logits.detach().argmax(1) if labels is None else labels.to(logits.device)
        loss = F.cross_entropy(logits, answers, reduction="sum")
        gradient = torch.autograd.grad(loss, leaf, create_graph=True)[0].flatten()
    for index, entry in enumerate(gradient):
        total[index] += torch.autograd.grad(entry, leaf, retain_graph=True)[0].flatten().double()


def _logits(graph: GraphModule, outputs: Any, num_samples: int) -> Tensor:
    leaves = [leaf for leaf in pytree.tree_leaves(outputs) if isinstance(leaf, Tensor) and leaf.is_floating_point()]
    if len(leaves) != 1 or leaves[0].ndim != 2 or len(leaves[0]) != num_samples:
        shapes = ", ".join(str(list(leaf.shape)) for leaf in leaves) or "none"
        raise GraphError(
            f"The task loss is that of a classifier with one output [samples, classes]; this network's outputs are {shapes}. "
            "Use the local error (objective: local)."
        )
    found: Tensor = leaves[0]
    return found
