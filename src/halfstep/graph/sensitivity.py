"""How much the task loss feels each value of one tensor: the diagonal of the Fisher information, up to a factor.

    F = (dL / dz)²          L = -log p_y,  p = softmax(f),  y = the network's own answer

z: the tensor. f: the network's outputs [N, K]. Li et al. 2021, "BRECQ: pushing the limit of post-training quantization by block
reconstruction", equation 10. Deviation: the label is the network's own answer, since calibration data have none.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor
from torch.fx import GraphModule, Node
from torch.nn import functional as F
from torch.utils import _pytree as pytree

from halfstep.errors import GraphError
from halfstep.graph.run import Observer, cut
from halfstep.quantizers import in_float


def squared_slopes(graph: GraphModule, node: Node, batches: Iterable[tuple[Tensor, ...]]) -> Tensor:
    """F of each sample [N, ...], divided by its mean; `GraphError` where the network has no output of shape [N, K]."""
    found = []
    with in_float(graph), torch.enable_grad():
        for inputs in batches:
            for part, num_real in cut(graph, inputs):
                found.append(_slopes(graph, node, part)[:num_real].square())
    squares = torch.cat(found)
    return squares / squares.mean().clamp(min=torch.finfo(squares.dtype).tiny)


def _slopes(graph: GraphModule, node: Node, inputs: tuple[Tensor, ...]) -> Tensor:
    leaves = []

    def see(_: Node, tensor: Tensor) -> Tensor:
        leaves.append(tensor.detach().requires_grad_())
        return leaves[-1]

    logits = pytree.tree_leaves(Observer(graph, {node}, see).run(*inputs))[0]
    if not isinstance(logits, Tensor) or logits.ndim != 2:
        raise GraphError("Weights by the Fisher information need a network whose first output is [N, K], one row of logits a sample.")
    loss = F.cross_entropy(logits, logits.detach().argmax(1), reduction="sum")
    return torch.autograd.grad(loss, leaves[0])[0]
