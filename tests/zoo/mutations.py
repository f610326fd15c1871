"""Tensors that are changed in place."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from zoo.members import member


@member((3, 8, 8))
class in_place(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.conv2, self.relu = nn.Conv2d(8, 8, 3, padding=1), nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu(self.bn1(self.conv1(x)))
        y = self.conv2(x)
        y += x
        return F.relu_(y).mean((2, 3))


@member((3, 6, 6))
class slice_assignment(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.bn, self.last = nn.Conv2d(3, 6, 3, padding=1), nn.BatchNorm2d(6), nn.Conv2d(6, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.bn(self.conv(x))
        x[:, :2] = 0.5
        return self.last(x)


@member((3, 6, 6))
class view_mutation(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.last = nn.Conv2d(3, 6, 3, padding=1), nn.Conv2d(6, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        x.view(x.size(0), -1).clamp_(min=-0.1)
        return self.last(x)
