"""Convolutions, in the places that real networks have them."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zoo.members import member


@member((3, 8, 8))
def conv_bn_relu() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU(),
        nn.Conv2d(8, 8, 3, stride=2), nn.BatchNorm2d(8), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4),
    )  # fmt: skip


@member((3, 8, 8))
class residual(nn.Module):
    """One ReLU module for everything, as in torchvision's ResNet."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8)
        self.conv2, self.bn2 = nn.Conv2d(8, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8)
        self.conv3, self.bn3 = nn.Conv2d(8, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.relu = nn.ReLU()
        self.pool, self.fc = nn.AdaptiveAvgPool2d(1), nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu(self.bn1(self.conv1(x)))
        y = self.relu(self.bn2(self.conv2(x)))
        x = self.relu(x + self.bn3(self.conv3(y)))
        return self.fc(torch.flatten(self.pool(x), 1))


@member((8, 6, 6))
class shared(nn.Module):
    """A convolution (with a bias) and a linear layer, each used twice on tensors of different range."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.fc, self.relu = nn.Conv2d(8, 8, 3, padding=1), nn.Linear(8, 8), nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu(self.conv(self.relu(self.conv(x))))
        return self.fc(self.fc(x.mean((2, 3))))


@member((3, 8, 8))
def depthwise() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 8, 1, bias=False), nn.BatchNorm2d(8), nn.ReLU6(),
        nn.Conv2d(8, 8, 3, padding=1, groups=8, bias=False), nn.BatchNorm2d(8), nn.ReLU6(),
        nn.Conv2d(8, 12, 1, bias=False), nn.BatchNorm2d(12), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(12, 4),
    )  # fmt: skip


@member((4, 5, 5))
def transposed() -> nn.Module:
    return nn.Sequential(
        nn.ConvTranspose2d(4, 6, 3, stride=2, bias=False), nn.BatchNorm2d(6), nn.ReLU(),
        nn.ConvTranspose2d(6, 4, 3, groups=2), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 2, 1),
    )  # fmt: skip


@member((3, 8, 8))
class concat(nn.Module):
    """Branches of different range, one of them a max pool."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.left, self.right = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 4, 1), nn.Conv2d(8, 4, 3, padding=1)
        self.pool, self.fuse, self.fc = nn.MaxPool2d(3, 1, 1), nn.Conv2d(16, 8, 1), nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.stem(x))
        x = torch.cat([F.relu(self.left(x)), 10 * F.relu(self.right(x)), self.pool(x)], 1)
        return self.fc(F.relu(self.fuse(x)).mean((2, 3)))


@member((3, 8, 8))
class option_a(nn.Module):
    """The shortcut of He et al. without weights: every second pixel, zero channels around."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.conv = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 8, 3, stride=2, padding=1, bias=False)
        self.bn, self.relu, self.pool, self.fc = nn.BatchNorm2d(8), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu(self.stem(x))
        x = self.relu(self.bn(self.conv(x)) + F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, 2, 2)))
        return self.fc(self.pool(x).flatten(1))


@member((3, 8, 8))
class squeeze_excite(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.squeeze, self.excite = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 4, 1), nn.Conv2d(4, 8, 1)
        self.pool, self.fc = nn.AdaptiveAvgPool2d(1), nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.conv(x))
        x = x * torch.sigmoid(self.excite(F.relu(self.squeeze(self.pool(x)))))
        return self.fc(self.pool(x).flatten(1))


@member((8, 6, 6))
class shuffle(nn.Module):
    """ShuffleNet's unit: split, one half through convolutions, joined, channels interleaved."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.bn1, self.conv2 = nn.Conv2d(4, 4, 1, bias=False), nn.BatchNorm2d(4), nn.Conv2d(4, 4, 3, padding=1, groups=4)
        self.fc = nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        left, right = x.chunk(2, 1)
        x = torch.cat([left, F.relu(self.conv2(F.relu(self.bn1(self.conv1(right)))))], 1)
        x = x.view(x.size(0), 2, 4, 6, 6).transpose(1, 2).flatten(1, 2)
        return self.fc(x.mean((2, 3)))


@member((3, 7, 7))
class paddings(nn.Module):
    """'same' with an even kernel, reflection, a value other than 0, ``ceil_mode``."""

    def __init__(self) -> None:
        super().__init__()
        self.same, self.reflect = nn.Conv2d(3, 6, 2, padding="same"), nn.Conv2d(6, 6, 3, padding=1, padding_mode="reflect")
        self.last = nn.Conv2d(6, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = F.max_pool2d(F.relu(self.reflect(F.relu(self.same(x)))), 2, ceil_mode=True)
        return self.last(F.pad(x, (1, 1, 1, 1), value=0.3))


@member((3, 12))
def conv1d() -> nn.Module:
    return nn.Sequential(nn.Conv1d(3, 6, 3, bias=False), nn.BatchNorm1d(6), nn.ReLU(), nn.MaxPool1d(2), nn.Flatten(), nn.Linear(30, 4))


@member((2, 4, 6, 6))
def conv3d() -> nn.Module:
    return nn.Sequential(
        nn.Conv3d(2, 4, 3, bias=False), nn.BatchNorm3d(4), nn.ReLU(), nn.AdaptiveAvgPool3d(1), nn.Flatten(), nn.Linear(4, 3)
    )


@member((3, 6, 6))
def ends_in_conv() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 6, 3), nn.ReLU(), nn.Conv2d(6, 4, 3))


@member((3, 6, 6))
def ends_in_average() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 6, 3), nn.ReLU(), nn.Conv2d(6, 4, 1), nn.ReLU(), nn.AvgPool2d(4), nn.Flatten())


@member((3, 6, 6))
def dead_channel() -> nn.Module:
    network = nn.Sequential(nn.Conv2d(3, 6, 3), nn.ReLU(), nn.Conv2d(6, 4, 1))
    with torch.no_grad():
        network[0].weight[2] = 0
        network[0].bias[2] = 0
    return network


@member((3, 6, 6))
def large_bias() -> nn.Module:
    """|bias| / (input scale * weight scale) of the first channel would be some 1e12 on a grid fitted to its weights alone."""
    network = nn.Sequential(nn.Conv2d(3, 6, 3), nn.ReLU(), nn.Conv2d(6, 4, 1))
    with torch.no_grad():
        network[0].weight[0] *= 1e-9
        network[0].bias[0] = 1.5
    return network
