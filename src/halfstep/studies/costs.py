"""The two costs of a rounding of the first layer that stand in for the task loss.

    task_cost    ΔwᵀHΔw,                          H = E[d²L / dw²], the whole layer's weights in one vector          (13)
    local_cost   sum_k  ΔW_k E[x xᵀ] ΔW_kᵀ        x: a patch of the layer's input, over samples and output positions  (20)

Δw: quantized weight minus float weight. k: output channel. Nagel et al. 2020, equations (13), (20) and appendix B. Both are reported as
they are, without the factor 1/2 of the expansion. Deviation: none where the network is piecewise linear in this weight; elsewhere H is its
Gauss-Newton part (see `graph.curvature`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.fx import GraphModule, Node

from halfstep.graph.curvature import task_curvature
from halfstep.graph.edges import behind_quantizer
from halfstep.graph.edit import attribute
from halfstep.graph.operators import WeightedLayer, linear_operator, weighted_layers
from halfstep.graph.run import cut, observe
from halfstep.rounding import LinearOperator


@dataclass(frozen=True)
class FirstLayerCosts:
    """weight: of the float network. curvature: H [n, n]. gram: E[x xᵀ] [G, d, d]."""

    weight: Tensor
    operator: LinearOperator
    curvature: Tensor
    gram: Tensor

    @classmethod
    def gather(cls, model: GraphModule, batches: Sequence[tuple[Tensor, ...]]) -> FirstLayerCosts:
        """Of a float network, on these inputs."""
        layer = weighted_layers(model)[0]
        source = behind_quantizer(layer.weight)
        weight = attribute(model, source).detach().clone()
        operator = linear_operator(layer, weight.shape[2:])
        return cls(weight, operator, task_curvature(model, source, batches), _gram(model, layer, operator, weight, batches))

    def of(self, model: GraphModule) -> tuple[float, float]:
        """(task_cost, local_cost) of a network that differs from the float one in its quantizers and rounded weights alone."""
        layer = weighted_layers(model)[0]
        change = attribute(model, behind_quantizer(layer.weight)).detach().double() - self.weight.double()
        flat, rows = change.flatten(), self.operator.rows(change)
        return float(flat @ self.curvature @ flat), float(((rows @ self.gram) * rows).sum())


def _gram(
    model: GraphModule, layer: WeightedLayer, operator: LinearOperator, weight: Tensor, batches: Sequence[tuple[Tensor, ...]]
) -> Tensor:
    """E[x xᵀ] over all samples and output positions, float64."""
    total, count = torch.zeros((), dtype=torch.float64), 0
    for inputs in batches:
        for part, num_real in cut(model, inputs):
            seen: list[Tensor] = []

            def see(node: Node, tensor: Tensor, seen: list[Tensor] = seen) -> Tensor:
                seen.append(tensor)
                return tensor

            observe(model, part, {layer.input}, see)
            x = seen[0][:num_real]
            positions = torch.arange(operator.num_positions(x, weight), device=x.device).expand(len(x), -1)
            patches = operator.patches(x, weight, positions)
            total = total + (patches.transpose(1, 2) @ patches).double()
            count += patches.shape[1]
    return total / count
