"""What a network of the zoo is, and how it is entered."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

Build = Callable[[], nn.Module]


@dataclass(frozen=True)
class Member:
    """shapes: of one sample of each input. batch_size: the only one the network takes. num_classes: of an input of indices, else 0."""

    build: Build
    shapes: tuple[tuple[int, ...], ...]
    batch_size: int | None
    num_classes: int

    def model(self) -> nn.Module:
        """Always the same weights; batch norms with statistics of their own; in eval mode."""
        torch.manual_seed(7)
        model = self.build()
        for norm in model.modules():
            if isinstance(norm, nn.modules.batchnorm._BatchNorm):
                unsettle(norm)
        return model.eval()

    def inputs(self, num_samples: int | None = None, seed: int = 0) -> tuple[Tensor, ...]:
        """Random samples, by default as many as the network takes at once, or 4."""
        generator, size = torch.Generator().manual_seed(seed), num_samples or self.batch_size or 4
        if self.num_classes:
            return tuple(torch.randint(self.num_classes, (size, *shape), generator=generator) for shape in self.shapes)
        return tuple(torch.randn(size, *shape, generator=generator) for shape in self.shapes)


def unsettle(norm: nn.modules.batchnorm._BatchNorm) -> None:
    """Statistics and weights as training leaves them: none of them 0 or 1."""
    if norm.running_mean is not None and norm.running_var is not None:
        norm.running_mean.copy_(torch.randn_like(norm.running_mean) * 0.2)
        norm.running_var.copy_(torch.rand_like(norm.running_var) + 0.5)
    if norm.affine:
        with torch.no_grad():
            norm.weight.copy_(torch.rand_like(norm.weight) + 0.5)
            norm.bias.copy_(torch.randn_like(norm.bias) * 0.3)


ZOO: dict[str, Member] = {}


def member(*shapes: tuple[int, ...], batch_size: int | None = None, num_classes: int = 0) -> Callable[[Any], Any]:
    """Enter a class or function under its name."""

    def enter(build: Any) -> Any:
        ZOO[build.__name__] = Member(build, shapes, batch_size, num_classes)
        return build

    return enter
