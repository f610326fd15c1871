"""Bits that fall while a network trains: 8, then 4, then 3, then those of its grids.

    stage i of n begins at step   share T i / n,      T: steps in all;   after the last stage the grids have their own bits
    grid of a tensor in a stage:  that of the recipe, with the stage's bits where it has fewer

Zhuang et al. 2018, "Towards effective low-bitwidth convolutional neural networks" (progressive quantization), and Jung et al. 2019,
"Learning to quantize deep networks by optimizing quantization intervals with task loss" (progressive fine-tuning), train from many bits to
few. Deviation: where the bits change, the scale is not taken over but found anew, by least squared error: of weights as they stand, then of
activations, in the order of computation, on the first calibration batch behind what was found already. What the optimizer remembers of
quantizers that changed is dropped. Layers that have as many bits as the stage, or more, do not notice.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable
from typing import final

import torch
from torch import Tensor, nn
from torch.fx import GraphModule, Node

from halfstep.graph.capture import in_eval_mode
from halfstep.graph.run import cut, observe
from halfstep.grid import Grid
from halfstep.quantizers import AbstractLearnedQuantizer
from halfstep.ranges import Distribution, Histogram
from halfstep.ranges.mse import MeanSquaredError
from halfstep.steps.training.edges import learned_activations, learned_weights

Batches = Callable[[], Iterable[tuple[Tensor, ...]]]


@dataclasses.dataclass(frozen=True)
class GradualOptions:
    """bits: of the stages, none for grids that have their own bits from the beginning. share: of the steps, for all stages together."""

    bits: tuple[int, ...] = ()
    share: float = 0.5

    def begins(self, num_steps: int) -> list[int]:
        """The steps at which a stage ends and the next one, or the training on the grids' own bits, begins; the last step is behind all."""
        num = len(self.bits)
        return [min(int(self.share * num_steps * (index + 1) / num), num_steps - 1) for index in range(num)]


@final
class Gradual:
    """Of the learned quantizers of ``network``. batches: calibration inputs."""

    def __init__(self, network: GraphModule, options: GradualOptions, num_steps: int, batches: Batches) -> None:
        self._network, self._options, self._batches = network, options, batches
        self._begins = options.begins(num_steps)
        self._weights = learned_weights(network)
        self._activations = learned_activations(network)
        found = [quantizer for _, quantizer in self._weights] + list(self._activations.values())
        self._grids = {quantizer: quantizer.grid for quantizer in found}
        self._stage = len(options.bits)

    def stage(self, step: int) -> int:
        """Which one step ``step`` belongs to; the number of them for the grids' own bits."""
        return sum(begin <= step for begin in self._begins)

    def bits(self) -> int | None:
        """Of the stage that it stands in; None for the grids' own."""
        return self._options.bits[self._stage] if self._stage < len(self._options.bits) else None

    def resume(self, step: int) -> None:
        """Be where ``step`` left it: the scales come from elsewhere."""
        self._stage = self.stage(step)
        for quantizer in self._grids:
            quantizer.grid = self._grid(quantizer)

    def enter(self, step: int) -> list[nn.Parameter] | None:
        """Go to the stage of ``step``; the parameters that began anew, or None where the stage is the same."""
        stage = self.stage(step)
        if stage == self._stage:
            return None
        self._stage = stage
        changed = {quantizer for quantizer in self._grids if quantizer.grid != self._grid(quantizer)}
        self._find(changed)
        return [parameter for quantizer in changed for parameter in quantizer.parameters()]

    def _grid(self, quantizer: AbstractLearnedQuantizer) -> Grid:
        """The one of this stage."""
        own = self._grids[quantizer]
        return dataclasses.replace(own, bits=max(own.bits, self.bits() or own.bits))

    @torch.no_grad()
    def _find(self, changed: set[AbstractLearnedQuantizer]) -> None:
        """Grids and scales of ``changed``."""
        for quantizer in changed:
            quantizer.grid = self._grid(quantizer)
        for weight, quantizer in self._weights:
            if quantizer in changed:
                grid = quantizer.grid
                _fit(quantizer, Distribution.of_tensor(weight.cpu(), grid.channel_axis, grid.group_size))
        sources = {node: quantizer for node, quantizer in self._activations.items() if quantizer in changed}

        def see(node: Node, x: Tensor) -> Tensor:
            histogram = Histogram()
            histogram.observe(x.float().cpu())
            _fit(sources[node], histogram.distribution())
            return x

        if sources:
            device = next(self._network.parameters()).device
            inputs, _ = cut(self._network, next(iter(self._batches())))[0]
            with in_eval_mode(self._network):
                observe(self._network, tuple(x.to(device) for x in inputs), set(sources), see)


def _fit(quantizer: AbstractLearnedQuantizer, distribution: Distribution) -> None:
    """The scale of least squared error; rows of zeros take the largest one of the tensor."""
    scale, zero_point = MeanSquaredError().range(distribution, quantizer.grid).fit(quantizer.grid)
    if bool((scale > 0).any()):
        shape = quantizer.shape()
        quantizer.set(torch.where(scale > 0, scale, scale.max()).float().view(shape), zero_point.float().view(shape))
