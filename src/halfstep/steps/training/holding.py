"""What is made to hold for the weights again after every step of the optimizer: zeros that stay, codes that are frozen."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

from torch import nn
from torch.fx import GraphModule

from halfstep.steps.training.freezing import Freezing, FreezingOptions
from halfstep.steps.training.zeros import Zeros


@dataclass(frozen=True)
class Holding:
    """keep_zeros: whether weights that are 0 in the float network stay so. freezing: None for none."""

    keep_zeros: bool = False
    freezing: FreezingOptions | None = None


@final
class Held(nn.Module):
    """Of the weights of ``network``; what it learns about them is in its buffers. reference: the float network."""

    def __init__(self, network: GraphModule, reference: GraphModule, options: Holding) -> None:
        super().__init__()
        self.zeros = Zeros(network, reference) if options.keep_zeros else None
        if self.zeros is not None:
            self.zeros.restore()
        self.freezing = Freezing(network, options.freezing) if options.freezing is not None else None

    def update(self, done: float) -> None:
        """After a step of the optimizer; done: the share of the steps that lay before it."""
        if self.zeros is not None:
            self.zeros.restore()
        if self.freezing is not None:
            self.freezing.update(done)

    def restore(self) -> None:
        """The same for weights that something else than a step has moved."""
        if self.zeros is not None:
            self.zeros.restore()
        if self.freezing is not None:
            self.freezing.restore()

    def begin(self) -> None:
        """The grids have changed."""
        if self.freezing is not None:
            self.freezing.begin()

    def notes(self) -> list[str]:
        """What a report should say of it."""
        return [] if self.freezing is None else [f"{100 * self.freezing.share():.1f} % of the weights were frozen on their codes."]
