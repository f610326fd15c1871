"""Operators beside convolutions."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zoo.members import member


@member((6, 8))
class attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.query, self.key, self.value, self.out = (nn.Linear(8, 8) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        scores = torch.matmul(self.query(x), self.key(x).transpose(1, 2)) / 8**0.5
        return self.out(torch.matmul(scores.softmax(-1), self.value(x)) + x).mean(1)


@member((12,))
class float_operators(nn.Module):
    """cumsum has no row in the table of roles."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm, self.last = nn.Linear(12, 12), nn.LayerNorm(12), nn.Linear(12, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(torch.cumsum(F.gelu(self.norm(self.first(x))), 1))


@member((10,))
class dropout(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.drop, self.last = nn.Linear(10, 12), nn.Dropout(0.4), nn.Linear(12, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.drop(F.relu(self.first(x)))
        return self.last(F.dropout(x, 0.3, self.training))


@member((3, 6, 6))
def dropout2d() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 6, 3), nn.ReLU(), nn.Dropout2d(0.5), nn.Conv2d(6, 4, 1))


@member((3, 6, 6))
class view_flatten(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.fc = nn.Conv2d(3, 6, 3), nn.Linear(96, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = F.max_pool2d(F.relu(self.conv(x)), 1)
        return self.fc(x.view(x.size(0), -1))


@member((10,))
def bias_free() -> nn.Module:
    return nn.Sequential(nn.Linear(10, 12, bias=False), nn.ReLU(), nn.Linear(12, 4, bias=False))


@member((3, 6, 6))
class scalars(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.last = nn.Conv2d(3, 6, 3), nn.Conv2d(6, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(F.relu(self.conv(x * 0.5 + 1)) * 3 - 0.25)


@member((3, 6, 6))
class constants(nn.Module):
    """A parameter that is added, a tensor made in forward, an operand added to itself, an ``alpha``."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.position, self.last = nn.Conv2d(3, 6, 3), nn.Parameter(torch.randn(6, 4, 4)), nn.Conv2d(6, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.conv(x) + self.position) * torch.tensor([2.0])
        return self.last(torch.add(x + x, self.position, alpha=3))


@member((3, 6, 6))
class activations(nn.Module):
    """Clamps a grid absorbs, and functions it does not."""

    def __init__(self) -> None:
        super().__init__()
        self.convs = nn.ModuleList(nn.Conv2d(3 if k == 0 else 6, 6, 1) for k in range(5))
        self.prelu = nn.PReLU(6)

    def forward(self, x: Tensor) -> Tensor:
        x = F.hardtanh(self.convs[0](x), -0.5, 0.75)
        x = torch.clamp(self.convs[1](x), min=-0.25)
        x = F.hardswish(self.convs[2](x))
        x = self.prelu(self.convs[3](x))
        return F.silu(self.convs[4](x))


@member((7,), num_classes=11)
class embedding(nn.Module):
    """Integer inputs."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.fc = nn.Embedding(11, 8), nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.table(x).mean(1))
