"""MobileNetV1 for images of 32 x 32 pixels, at any width.

::

    image 3 x 32 x 32
      -> conv 3x3                                        32 w channels, 32 x 32 pixels
      -> 13 times: depthwise conv 3x3, conv 1x1          64 w ... 1024 w channels, 32 x 32 ... 2 x 2 pixels
      -> mean over the pixels -> linear                  10 scores

Howard et al. 2017, "MobileNets", table 1; w: its width multiplier. Every convolution is followed by a batch norm and a ReLU. Deviation, as
usual for small images: the first convolution has stride 1. 46 million multiply-adds and 3.2 million parameters at w = 1.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import final

from torch import Tensor, nn

_BLOCKS = ((64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2), *((512, 1),) * 5, (1024, 2), (1024, 1))
"""Channels behind each block at w = 1, and the stride of its depthwise convolution."""


@final
class MobileNetV1(nn.Module):
    """Images [N, 3, 32, 32] to scores [N, num_classes]. width: w."""

    def __init__(self, width: float = 1.0, num_classes: int = 10) -> None:
        super().__init__()
        num_channels = round(32 * width)
        self.stem = _convolution(3, num_channels, 3)
        blocks = []
        for count, stride in _BLOCKS:
            num_out = round(count * width)
            blocks.append(_block(num_channels, num_out, stride))
            num_channels = num_out
        self.blocks = nn.Sequential(*blocks)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Linear(num_channels, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """[N, 3, 32, 32] -> [N, num_classes]."""
        scores: Tensor = self.classifier(self.pool(self.blocks(self.stem(x))).flatten(1))
        return scores


def _block(num_in: int, num_out: int, stride: int) -> nn.Sequential:
    depthwise = _convolution(num_in, num_in, 3, stride, num_in)
    return nn.Sequential(OrderedDict(depthwise=depthwise, pointwise=_convolution(num_in, num_out, 1)))


def _convolution(num_in: int, num_out: int, size: int, stride: int = 1, groups: int = 1) -> nn.Sequential:
    conv = nn.Conv2d(num_in, num_out, size, stride, size // 2, groups=groups, bias=False)
    return nn.Sequential(OrderedDict(conv=conv, bn=nn.BatchNorm2d(num_out), act=nn.ReLU()))
