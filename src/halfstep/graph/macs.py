"""How often a layer multiplies and adds."""

from __future__ import annotations

import math

from torch.fx import GraphModule

from halfstep.graph.edges import behind_quantizer
from halfstep.graph.edit import attribute
from halfstep.graph.operators import WeightedLayer


def num_macs(graph: GraphModule, layer: WeightedLayer) -> int | None:
    """Multiply-accumulates of one sample: every output element of a convolution sums over one slice of the weight.

    In a transposed convolution every input element is multiplied by one slice. None where the shape is not fixed.
    """
    end = layer.node if layer.output_axis == 0 else behind_quantizer(layer.input)
    shape = end.meta["shape"][1:]
    return None if None in shape else math.prod(shape) * attribute(graph, behind_quantizer(layer.weight))[0].numel()
