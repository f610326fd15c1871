"""A small trained convolutional network for 8x8 digits, with one of each thing that quantization meets in real networks.

::

    image 1x8x8
      -> stem      conv 3x3, batch norm, ReLU                        24 x 8 x 8
      -> residual  (conv, batch norm, ReLU, conv, batch norm) + x, ReLU
      -> max pool 2x2                                                24 x 4 x 4
      -> concat of [depthwise 3x3, ReLU6, pointwise, ReLU6]  (32)
                   [pointwise, ReLU]                         (16)    48 x 4 x 4
      -> fuse      conv 3x3, batch norm, ReLU                        48 x 4 x 4
      -> global average pool -> linear                               10 scores

Every convolution is followed by a batch norm. The weights are made by ``examples/train_digits.py``.
"""

from __future__ import annotations

from collections import OrderedDict
from importlib import resources

import safetensors.torch
import torch
from torch import nn

WEIGHTS = "weights/digits.safetensors"


def convolution(num_in: int, num_out: int, size: int, *, groups: int = 1, activation: type[nn.Module] | None = nn.ReLU) -> nn.Sequential:
    """A bias-free convolution that keeps height and width, its batch norm, and its activation (``None`` for none)."""
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    layers["conv"] = nn.Conv2d(num_in, num_out, size, padding=size // 2, groups=groups, bias=False)
    layers["bn"] = nn.BatchNorm2d(num_out)
    if activation is not None:
        layers["act"] = activation()
    return nn.Sequential(layers)


class ResidualBlock(nn.Module):
    """``relu(x + f(x))`` with two 3x3 convolutions in ``f``; the shape [N, C, H, W] stays."""

    def __init__(self, num_channels: int) -> None:
        super().__init__()
        self.first = convolution(num_channels, num_channels, 3)
        self.second = convolution(num_channels, num_channels, 3, activation=None)
        self.relu = nn.ReLU()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[N, C, H, W] -> [N, C, H, W]."""
        total: torch.Tensor = self.relu(x + self.second(self.first(x)))
        return total


class DigitsNet(nn.Module):
    """Images [N, 1, 8, 8], float32 in 0..1, to scores [N, 10]."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = convolution(1, 24, 3)
        self.residual = ResidualBlock(24)
        self.pool = nn.MaxPool2d(2)
        self.depthwise = convolution(24, 24, 3, groups=24, activation=nn.ReLU6)
        self.pointwise = convolution(24, 32, 1, activation=nn.ReLU6)
        self.shortcut = convolution(24, 16, 1)
        self.fuse = convolution(48, 48, 3)
        self.average = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Linear(48, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Images [N, 1, 8, 8] -> scores [N, 10]."""
        x = self.pool(self.residual(self.stem(x)))
        x = torch.cat([self.pointwise(self.depthwise(x)), self.shortcut(x)], dim=1)
        x = self.average(self.fuse(x)).flatten(1)
        scores: torch.Tensor = self.classifier(x)
        return scores


def digits_network() -> DigitsNet:
    """The trained network, in evaluation mode."""
    stored = resources.files("halfstep.demo").joinpath(WEIGHTS).read_bytes()
    network = DigitsNet()
    network.load_state_dict(safetensors.torch.load(stored))
    return network.eval()
