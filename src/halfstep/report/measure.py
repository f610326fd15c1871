"""Signal-to-quantization-noise ratio of every layer: the float network against the simulated one, both run whole.

    SQNR = 10 log10( sum x^2 / sum (x - x_simulated)^2 )   in dB, over all values of a tensor and all samples

so that a layer's figure holds its own error and what reached it from the layers before.
"""

from __future__ import annotations

import math
from collections import defaultdict

import torch
from torch import Tensor
from torch.fx import GraphModule, Node

from halfstep.graph.run import cut_to, observe

_BATCH = 4  # small: the float activations of one batch are held while the simulation runs


def sqnr_db(signal: float, noise: float) -> float | None:
    """From sums of squares; None where there is no noise or no signal."""
    return 10 * math.log10(signal / noise) if signal > 0 and noise > 0 else None


def measure_sqnr(
    float_graph: GraphModule, graph: GraphModule, simulated: dict[Node, str], samples: tuple[Tensor, ...]
) -> dict[Node, float | None]:
    """simulated: nodes of ``graph`` -> the name of the node in ``float_graph`` that carries the same tensor. SQNR by node."""
    wanted = set(simulated.values())
    originals = {node: str(node.meta["name"]) for node in float_graph.graph.nodes if node.meta["name"] in wanted}
    signal: dict[Node, float] = defaultdict(float)
    noise: dict[Node, float] = defaultdict(float)
    for part, _ in cut_to(samples, graph.meta["batch_size"] or _BATCH):
        held: dict[str, Tensor] = {}

        def keep(node: Node, x: Tensor, held: dict[str, Tensor] = held) -> Tensor:
            held[originals[node]] = x
            return x

        def compare(node: Node, x: Tensor, held: dict[str, Tensor] = held) -> Tensor:
            exact = held[simulated[node]]
            signal[node] += float(exact.square().sum(dtype=torch.float64))
            noise[node] += float((exact - x).square().sum(dtype=torch.float64))
            return x

        observe(float_graph, part, set(originals), keep)
        observe(graph, part, set(simulated), compare)
    return {node: sqnr_db(signal[node], noise[node]) for node in simulated}


def tensor_sqnr_db(x: Tensor, quantized: Tensor) -> float | None:
    """SQNR of one tensor, such as a weight, against its quantized version."""
    exact = x.detach().double()
    return sqnr_db(float(exact.square().sum()), float((exact - quantized.detach().double()).square().sum()))


def histogram_counts(x: Tensor, low: float, high: float, num_bins: int = 128) -> tuple[int, ...]:
    """Counts of the values of ``x`` over equal bins from ``low`` to ``high``."""
    if high <= low:
        return (x.numel(),)
    return tuple(int(count) for count in torch.histc(x.detach().float().cpu(), num_bins, low, high).tolist())
