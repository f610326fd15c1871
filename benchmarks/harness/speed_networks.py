"""Networks of the speed benchmark at 224x224: ResNet-18 in plain PyTorch with random weights, and the trained ImageNet networks."""

from itertools import pairwise

import torch
from torch import Tensor, nn

from harness.peer import trained_network

RESNET = "resnet18"
TRAINED = ("mobilenet_v2", "squeezenet1_1")
NETWORKS = (RESNET, *TRAINED)
SHAPE = (3, 224, 224)


class Block(nn.Module):
    """Two 3x3 convolutions and a shortcut (He et al. 2016, "Deep residual learning for image recognition", figure 2)."""

    def __init__(self, num_inputs: int, num_outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(num_inputs, num_outputs, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(num_outputs)
        self.relu = nn.ReLU()
        self.conv2 = nn.Conv2d(num_outputs, num_outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(num_outputs)
        self.relu2 = nn.ReLU()
        is_changed = stride != 1 or num_inputs != num_outputs
        shortcut = [nn.Conv2d(num_inputs, num_outputs, 1, stride, bias=False), nn.BatchNorm2d(num_outputs)] if is_changed else []
        self.shortcut = nn.Sequential(*shortcut)

    def forward(self, x: Tensor) -> Tensor:
        y = self.bn2(self.conv2(self.relu(self.bn1(self.conv1(x)))))
        return self.relu2(y + self.shortcut(x))


class ResNet18(nn.Module):
    """He et al. 2016, table 1, 18 layers."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 64, 7, 2, 3, bias=False), nn.BatchNorm2d(64), nn.ReLU(), nn.MaxPool2d(3, 2, 1))
        widths = (64, 64, 128, 256, 512)
        blocks = [
            Block(before if index == 0 else after, after, 2 if index == 0 and stage else 1)
            for stage, (before, after) in enumerate(pairwise(widths))
            for index in range(2)
        ]
        self.blocks, self.pool = nn.Sequential(*blocks), nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Linear(512, 1000)

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(torch.flatten(self.pool(self.blocks(self.stem(x))), 1))  # type: ignore[no-any-return]


def network(name: str) -> nn.Module:
    """The network in eval mode, float32; ResNet-18 with the weights of seed 0."""
    torch.set_num_threads(1)
    if name == RESNET:
        torch.manual_seed(0)
        return ResNet18().eval()
    return trained_network(name)


def random_images(count: int) -> Tensor:
    """Calibration images: noise of unit variance is enough to time a file."""
    return torch.randn(count, *SHAPE, generator=torch.Generator().manual_seed(0))
