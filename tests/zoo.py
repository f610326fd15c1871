"""Small networks, each with one thing that goes wrong easily, and the graphs and results made of them: each is made once a test run."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.fx import GraphModule
from torch.utils import _pytree as pytree

import halfstep as hs
from halfstep.graph.capture import capture
from halfstep.graph.serialize import duplicate
from halfstep.rounding import ROUNDINGS, AbstractRounding
from halfstep.workflow.result import Result

NUM_SAMPLES = 32
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
                _unsettle(norm)
        return model.eval()

    def inputs(self, num_samples: int | None = None, seed: int = 0) -> tuple[Tensor, ...]:
        """Random samples, by default as many as the network takes at once, or 4."""
        generator, size = torch.Generator().manual_seed(seed), num_samples or self.batch_size or 4
        if self.num_classes:
            return tuple(torch.randint(self.num_classes, (size, *shape), generator=generator) for shape in self.shapes)
        return tuple(torch.randn(size, *shape, generator=generator) for shape in self.shapes)


def _unsettle(norm: nn.modules.batchnorm._BatchNorm) -> None:
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


@member((10,))
def linear_bn() -> nn.Module:
    return nn.Sequential(
        nn.Linear(10, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 16, bias=False), nn.BatchNorm1d(16), nn.Linear(16, 4)
    )


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


@member((6,), (5,))
class two_inputs(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.left, self.right, self.last = nn.Linear(6, 8), nn.Linear(5, 8), nn.Linear(8, 4)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return self.last(F.relu(self.left(x) + self.right(y)))


@member((3, 6, 6))
class dict_output(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.fc = nn.Conv2d(3, 6, 3), nn.Linear(6, 4)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        x = F.relu(self.conv(x))
        return {"scores": self.fc(x.mean((2, 3))), "features": x}


@member((10,))
class tuple_output(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body, self.head, self.other = nn.Linear(10, 8), nn.Linear(8, 4), nn.Linear(8, 2)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x = F.relu(self.body(x))
        return self.head(x), self.other(x)


@member((3, 6, 6))
class view_flatten(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.fc = nn.Conv2d(3, 6, 3), nn.Linear(96, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = F.max_pool2d(F.relu(self.conv(x)), 1)
        return self.fc(x.view(x.size(0), -1))


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


@member((3, 12))
def conv1d() -> nn.Module:
    return nn.Sequential(nn.Conv1d(3, 6, 3, bias=False), nn.BatchNorm1d(6), nn.ReLU(), nn.MaxPool1d(2), nn.Flatten(), nn.Linear(30, 4))


@member((2, 4, 6, 6))
def conv3d() -> nn.Module:
    return nn.Sequential(
        nn.Conv3d(2, 4, 3, bias=False), nn.BatchNorm3d(4), nn.ReLU(), nn.AdaptiveAvgPool3d(1), nn.Flatten(), nn.Linear(4, 3)
    )


@member((3, 6, 6), batch_size=2)
class static_batch(nn.Module):
    """Records the batch size it is shown as a number."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.fc = nn.Conv2d(3, 6, 3), nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(F.relu(self.conv(x)).reshape(int(x.shape[0]), 6, 16).mean(2))


@member((3, 6, 6))
class scalars(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.last = nn.Conv2d(3, 6, 3), nn.Conv2d(6, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(F.relu(self.conv(x * 0.5 + 1)) * 3 - 0.25)


@member((3, 6, 6))
def ends_in_conv() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 6, 3), nn.ReLU(), nn.Conv2d(6, 4, 3))


@member((3, 6, 6))
def ends_in_average() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 6, 3), nn.ReLU(), nn.Conv2d(6, 4, 1), nn.ReLU(), nn.AvgPool2d(4), nn.Flatten())


@member((10,))
def bias_free() -> nn.Module:
    return nn.Sequential(nn.Linear(10, 12, bias=False), nn.ReLU(), nn.Linear(12, 4, bias=False))


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


@member((3, 6, 6))
class constants(nn.Module):
    """A parameter that is added, a tensor made in forward, an operand added to itself, an ``alpha``."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.position, self.last = nn.Conv2d(3, 6, 3), nn.Parameter(torch.randn(6, 4, 4)), nn.Conv2d(6, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.conv(x) + self.position) * torch.tensor([2.0])
        return self.last(torch.add(x + x, self.position, alpha=3))


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


NAMES = list(ZOO)
CNNS = ("conv_bn_relu", "residual", "shared", "in_place", "depthwise", "concat", "option_a", "dead_channel", "ends_in_conv")
"""Networks that ONNX Runtime runs as integers from the first to the last layer."""
REPRESENTATIVE = (
    "residual", "depthwise", "concat", "option_a", "transposed", "attention", "float_operators", "two_inputs", "dict_output",
    "static_batch", "large_bias", "ends_in_average",
)  # fmt: skip
"""One network for each thing an export can get wrong; the others are exported by the slow tests."""


def leaves(outputs: Any) -> list[Tensor]:
    """The tensors a network returns."""
    return [leaf for leaf in pytree.tree_leaves(outputs) if isinstance(leaf, Tensor)]


def eager(name: str, inputs: tuple[Tensor, ...]) -> list[Tensor]:
    """What the network itself returns."""
    with torch.no_grad():
        return leaves(ZOO[name].model()(*(x.clone() for x in inputs)))


@functools.cache
def _captured(name: str) -> GraphModule:
    return capture(ZOO[name].model(), ZOO[name].inputs())


def captured(name: str) -> GraphModule:
    """The network's graph: a copy of its own for each caller."""
    return duplicate(_captured(name))


@functools.cache
def quantized(name: str, recipe: str = "int8") -> Result:
    """The network quantized with a shipped recipe on `NUM_SAMPLES` samples; not to be changed."""
    return hs.quantize(ZOO[name].model(), calibration_of(name), recipe)


def calibration_of(name: str) -> Any:
    """Calibration data in a form `halfstep.as_data` takes."""
    inputs = ZOO[name].inputs(NUM_SAMPLES)
    return inputs[0] if len(inputs) == 1 else [(inputs, None)]


def relative(first: Tensor, second: Tensor) -> float:
    """The largest difference, relative to the largest value of ``second``."""
    assert first.shape == second.shape
    return float((first - second).detach().abs().max() / second.detach().abs().max().clamp(min=1e-30))


_QUICK = {"num_iterations": 30, "num_rounds": 3, "num_reads": 2, "effort": 1}


def quick_rounding(name: str) -> AbstractRounding:
    """A rounding with the options that make it quick, for tests that do not ask how good its codes are."""
    fields = ROUNDINGS[name].model_fields
    rounding: AbstractRounding = ROUNDINGS.create({name: {option: value for option, value in _QUICK.items() if option in fields}})
    return rounding
