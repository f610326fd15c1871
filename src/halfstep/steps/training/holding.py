"""What is made to hold for the weights again after every step of the optimizer: codes that are frozen, zeros that stay."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

from torch import nn
from torch.fx import GraphModule

from halfstep.steps.training.freezing import Freezing, FreezingOptions
from halfstep.steps.training.pruning import Pruning, PruningOptions
from halfstep.steps.training.trainable import Trainable
from halfstep.steps.training.zeros import Zeros


@dataclass(frozen=True)
class Holding:
    """keep_zeros: whether weights that are 0 in the float network stay so. freezing, prune: None for none."""

    keep_zeros: bool = False
    freezing: FreezingOptions | None = None
    prune: PruningOptions | None = None


@final
class Held(nn.Module):
    """Of the weights of ``trainable``; what it learns about them is in its buffers. reference: the float network."""

    def __init__(self, trainable: Trainable, reference: GraphModule, options: Holding) -> None:
        super().__init__()
        self.zeros = Zeros(trainable.network, reference) if options.keep_zeros else None
        if self.zeros is not None:
            self.zeros.restore()
        self.freezing = Freezing(trainable.network, options.freezing) if options.freezing is not None else None
        self.pruning = Pruning(trainable, options.prune) if options.prune is not None else None

    def update(self, step: int, num_steps: int) -> None:
        """After step ``step`` of the optimizer, counted from 0."""
        if self.freezing is not None:
            self.freezing.update(step / num_steps)
        if self.zeros is not None:
            self.zeros.restore()
        if self.pruning is not None:
            self.pruning.update(step, num_steps)

    def restore(self) -> None:
        """The same for weights that something else than a step has moved."""
        if self.freezing is not None:
            self.freezing.restore()
        for zeros in (self.zeros, self.pruning):
            if zeros is not None:
                zeros.restore()

    def begin(self) -> None:
        """The grids have changed."""
        if self.freezing is not None:
            self.freezing.begin()

    def notes(self) -> list[str]:
        """What a report should say of it."""
        frozen = [] if self.freezing is None else [f"{100 * self.freezing.share():.1f} % of the weights were frozen on their codes."]
        return frozen if self.pruning is None else [*frozen, self.pruning.note()]
