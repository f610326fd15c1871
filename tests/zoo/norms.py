"""Batch norms where folding them is not plain."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from zoo.members import member


@member((10,))
def linear_bn() -> nn.Module:
    return nn.Sequential(
        nn.Linear(10, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 16, bias=False), nn.BatchNorm1d(16), nn.Linear(16, 4)
    )


@member((3, 6, 6))
def bn_first() -> nn.Module:
    return nn.Sequential(nn.BatchNorm2d(3), nn.Conv2d(3, 6, 3), nn.ReLU(), nn.BatchNorm2d(6), nn.Conv2d(6, 4, 1))


@member((3, 6, 6))
class bn_twice(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2, self.bn = nn.Conv2d(3, 6, 3, padding=1), nn.Conv2d(6, 6, 3, padding=1), nn.BatchNorm2d(6)

    def forward(self, x: Tensor) -> Tensor:
        return self.bn(self.conv2(F.relu(self.bn(self.conv1(x)))))


@member((3, 6, 6))
def bn_plain() -> nn.Module:
    """Without weight and bias of its own; the second without running statistics."""
    return nn.Sequential(
        nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6, affine=False), nn.ReLU(), nn.Conv2d(6, 4, 1), nn.BatchNorm2d(4, track_running_stats=False)
    )
