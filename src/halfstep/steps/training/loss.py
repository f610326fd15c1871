"""What is minimized: the distance to the answers of a float network, to the labels, or to both.

    L = d T^2 KL(softmax(y / T) || softmax(x / T)) + (1 - d) CE(x, label)

x, y: scores of the network in training and of the one that teaches it, T: temperature, d: share of its answers. Hinton et al.
2015, "Distilling the knowledge in a neural network", section 2. Without labels d is 1. No deviation.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils import _pytree as pytree

from halfstep.errors import TrainingError


@dataclass(frozen=True)
class Loss:
    """distillation: d. temperature: T."""

    distillation: float
    temperature: float = 1.0

    @property
    def asks_teacher(self) -> bool:
        """Whether a teacher's answers are needed."""
        return self.distillation > 0

    def __call__(self, outputs: Any, taught: Tensor | None, labels: Tensor | None) -> Tensor:
        """L, the mean over all rows of scores. ``taught``: the teachers' scores, or None where they are not needed."""
        found = scores(outputs)
        total = found.new_zeros(())
        if self.distillation > 0:
            assert taught is not None
            soft = F.log_softmax(taught / self.temperature, 1)
            own = F.log_softmax(found / self.temperature, 1)
            divergence = F.kl_div(own, soft, reduction="batchmean", log_target=True)
            total = total + self.distillation * self.temperature**2 * divergence
        if self.distillation < 1:
            assert labels is not None
            if labels.numel() != len(found):
                raise TrainingError(
                    f"There are {labels.numel()} labels for {len(found)} rows of scores: train on the float network's answers alone "
                    "(distillation: 1)."
                )
            total = total + (1 - self.distillation) * F.cross_entropy(found, labels.flatten())
        return total


def scores(outputs: Any) -> Tensor:
    """The first output as rows of scores [N, classes], float32; classes are its last axis."""
    first = next(leaf for leaf in pytree.tree_leaves(outputs) if isinstance(leaf, torch.Tensor))
    return first.float().flatten(0, -2) if first.ndim > 1 else first.float().view(1, -1)
