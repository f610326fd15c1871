"""The answers that a training learns: the mean scores of one float network or several.

With a limited number of views of the samples the same batches come again, and their answers are taken from memory: a teacher, or several
larger ones, are asked once for each view. Wu et al. 2022, "TinyViT: fast pretraining distillation for small vision transformers",
section 3.1. Deviations: scores of all classes are kept, in memory instead of on disk.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager

import torch
from torch import Tensor
from torch.fx import GraphModule

from halfstep.graph.run import run
from halfstep.steps.training.loss import scores


class Teachers:
    """networks: none where no answers are needed. num_batches: after so many steps batches come again; 0: never. autocast: the precision to
    answer in.
    """

    def __init__(
        self, networks: Sequence[GraphModule], device: torch.device, num_batches: int, autocast: Callable[[], AbstractContextManager[None]]
    ) -> None:
        self.networks = [network.to(device).eval() for network in networks]
        self.num_batches, self.autocast = num_batches, autocast
        self.kept: dict[int, Tensor] = {}

    def __call__(self, inputs: tuple[Tensor, ...], step: int) -> Tensor | None:
        """Scores [N, classes] for the batch of this step; four bytes each stay in memory where batches come again."""
        if not self.networks:
            return None
        if not self.num_batches:
            return self._asked(inputs)
        place = step % self.num_batches
        if place not in self.kept:
            self.kept[place] = self._asked(inputs).cpu()
        return self.kept[place].to(inputs[0].device)

    def close(self) -> None:
        """Bring the networks back to the processor they came from."""
        for network in self.networks:
            network.to("cpu")

    def _asked(self, inputs: tuple[Tensor, ...]) -> Tensor:
        with self.autocast():
            return torch.stack([scores(run(network, inputs)) for network in self.networks]).mean(0)
