"""Weights that are 0 in the float network, kept at 0 while the others train: the mask of a pruned network.

    w <- m w        after each step of the optimizer,        m = 0 where the float weight is 0, else 1

Zhu and Gupta 2017, "To prune, or not to prune", section 2 (masked weights are not updated). Deviation: the mask is fixed, not found here.
"""

from __future__ import annotations

from typing import final

import torch
from torch import Tensor
from torch.fx import GraphModule

from halfstep.errors import RecipeError
from halfstep.graph.edges import behind_quantizer, quantizer_of
from halfstep.graph.edit import attribute
from halfstep.graph.operators import WeightedLayer, weighted_layers


@final
class Zeros:
    """Of the stored weights of ``network`` by the names they have in ``reference``, the float network."""

    def __init__(self, network: GraphModule, reference: GraphModule) -> None:
        twins = {str(node.meta["name"]): node for node in reference.graph.nodes}
        self._masked = []
        for layer in weighted_layers(network):
            source = behind_quantizer(layer.weight)
            if source.op != "get_attr":
                continue
            weight = attribute(network, source)
            mask = (attribute(reference, twins[str(source.meta["name"])]) == 0).to(weight.device)
            if bool(mask.any()):
                refuse_without_zero(layer, weight, mask)
                self._masked.append((weight, mask))

    @torch.no_grad()
    def restore(self) -> None:
        """Set them to 0 again."""
        for weight, mask in self._masked:
            weight.masked_fill_(mask, 0)


def refuse_without_zero(layer: WeightedLayer, weight: Tensor, mask: Tensor) -> None:
    """`RecipeError` where zeros at ``mask`` would not stay zeros on the layer's grid."""
    quantizer = quantizer_of(layer.weight)
    if quantizer is not None and bool(quantizer(weight.detach().masked_fill(mask, 0))[mask].any()):
        raise RecipeError(
            f"Zeros of '{layer.name}' cannot be kept: its quantizer '{quantizer.name}' has no level at 0. Choose lsq for the "
            "weights, or symmetric levels."
        )
