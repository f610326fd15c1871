"""The training of the peers of quantization-aware training: halfstep's batches, schedule, optimizer and losses around a tool's network.

A peer's environment has no halfstep, so that this says again, in its order of random numbers, what ``halfstep.steps.training`` does: the
same seed gives the same images, mirrored and moved alike. Kept free of torch at import time, as ``harness.peer``.
"""

import argparse
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from harness.data import networks_module
from harness.peer import cpu_seconds
from harness.rounding_peer import evaluation_arguments

if TYPE_CHECKING:
    import torch

BATCH_SIZE, SHIFT, WARM_UP, MOMENTUM, WEIGHT_DECAY = 128, 4, 0.02, 0.9, 1e-4
OUTER_BITS = 8  # weights of the first and the last layer, the network's inputs, operands of additions: halfstep's recipes


def qat_parser(description: str | None) -> argparse.ArgumentParser:
    """The arguments of every peer's script; a script adds its own."""
    parser = evaluation_arguments(description)
    parser.add_argument("--bits", type=int, required=True, help="of weights and activations")
    parser.add_argument("--epochs", type=float, required=True)
    parser.add_argument("--variant", choices=("default", "best"), required=True, help="the tool's own defaults, or its best settings")
    parser.add_argument("--learning-rate", type=float, required=True, help="of weights, biases and batch norms: SGD")
    parser.add_argument("--distillation", type=float, default=1.0, help="share of the float network's answers in the loss")
    return parser


@dataclass(frozen=True)
class Feed:
    """images: uint8 [N, H, W, 3]. labels: int64 [N]. normalize: from such images to the float32 NCHW that the network takes."""

    images: Any
    labels: "torch.Tensor"
    normalize: Callable[[Any], "torch.Tensor"]
    seed: int

    @classmethod
    def load(cls, network: str, seed: int) -> "Feed":
        """All training images."""
        import torch

        module = networks_module()
        images, labels = module.load_split("train")
        return cls(images, torch.from_numpy(labels).long(), lambda part: module.normalize(part, network), seed)

    @property
    def num_batches(self) -> int:
        """Of one epoch."""
        return len(self.labels) // BATCH_SIZE

    def batches(self, num_steps: int) -> Iterator[tuple["torch.Tensor", "torch.Tensor"]]:
        """Images, moved and mirrored, and labels of each step, epoch after epoch."""
        import torch

        for step in range(num_steps):
            epoch, number = divmod(step, self.num_batches)
            if number == 0:
                order = torch.randperm(len(self.labels), generator=self._generator(epoch, -1))
            chosen = order[number * BATCH_SIZE : (number + 1) * BATCH_SIZE]
            generator = self._generator(epoch, number)
            mirrored = torch.rand(BATCH_SIZE, generator=generator) < 0.5
            moves = torch.randint(0, 2 * SHIFT + 1, (2, BATCH_SIZE), generator=generator)
            yield moved(self.normalize(self.images[chosen.numpy()]), moves, mirrored), self.labels[chosen]

    def _generator(self, epoch: int, number: int) -> "torch.Generator":
        import torch

        return torch.Generator().manual_seed(hash((self.seed, epoch, number)) % 2**63)


def moved(x: "torch.Tensor", moves: "torch.Tensor", mirrored: "torch.Tensor") -> "torch.Tensor":
    """Images [N, C, H, W], each cut at ``moves`` [2, N] from itself with zeros around, or from its mirror image; channels innermost."""
    import torch

    height, width = x.shape[2:]
    padded = torch.nn.functional.pad(x, (SHIFT,) * 4).permute(0, 2, 3, 1)
    rows = moves[0][:, None] + torch.arange(height)
    columns = torch.arange(width).expand(len(x), -1)
    columns = moves[1][:, None] + torch.where(mirrored[:, None], width - 1 - columns, columns)
    return padded[torch.arange(len(x))[:, None, None], rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)


def rate_factor(step: int, num_steps: int) -> float:
    """Rate / its largest: a short rise, then half a cosine wave down to 0."""
    done = step / num_steps
    if done < WARM_UP:
        return (step + 1) / math.ceil(WARM_UP * num_steps)
    return (1 + math.cos(math.pi * (done - WARM_UP) / (1 - WARM_UP))) / 2


def folded(network: "torch.nn.Module") -> "torch.nn.Module":
    """The float network that answers are learned from: a copy with its batch norms folded, as halfstep's is."""
    import copy

    from torch.fx.experimental.optimization import fuse

    found: torch.nn.Module = fuse(copy.deepcopy(network).eval())
    return found


@dataclass(frozen=True)
class Loop:
    """One training. is_scale: whether a parameter of this name goes by an Adam of its own, at ``scale_learning_rate``. watch: called before
    every step with the share of the steps that are done.
    """

    given: argparse.Namespace
    teacher: "torch.nn.Module"
    is_scale: Callable[[str], bool] = lambda name: False
    scale_learning_rate: float = 1e-3
    watch: Callable[[float], None] = lambda done: None

    def train(self, model: "torch.nn.Module") -> dict[str, float]:
        """Train in place; how fast, and the mean loss of the first and the last tenth of the steps."""
        import torch

        feed = Feed.load(self.given.network, self.given.seed)
        num_steps = max(1, round(self.given.epochs * feed.num_batches))
        optimizers = self._optimizers(model)
        bases = [[group["lr"] for group in optimizer.param_groups] for optimizer in optimizers]
        losses, started, told = [], cpu_seconds(), time.monotonic()
        for step, (images, labels) in enumerate(feed.batches(num_steps)):
            self.watch(step / num_steps)
            for optimizer, base in zip(optimizers, bases, strict=True):
                for group, rate in zip(optimizer.param_groups, base, strict=True):
                    group["lr"] = rate * rate_factor(step, num_steps)
            loss = self._loss(model, images, labels)
            for optimizer in optimizers:
                optimizer.zero_grad()
            loss.backward()
            for optimizer in optimizers:
                optimizer.step()
            losses.append(float(loss.detach()))
            if not math.isfinite(losses[-1]):
                raise RuntimeError(f"The loss is {losses[-1]} in step {step + 1}.")
            if time.monotonic() - told > 60:
                told = time.monotonic()
                print(f"step {step + 1} of {num_steps}, loss {sum(losses[-50:]) / len(losses[-50:]):.4f}", flush=True)
        tenth = max(1, num_steps // 10)
        return {
            "images_per_second": num_steps * BATCH_SIZE / (cpu_seconds() - started),
            "first_loss": float(torch.tensor(losses[:tenth]).mean()),
            "last_loss": float(torch.tensor(losses[-tenth:]).mean()),
        }

    def _optimizers(self, model: "torch.nn.Module") -> list["torch.optim.Optimizer"]:
        import torch

        named = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
        scales = [p for name, p in named if self.is_scale(name)]
        own = [p for name, p in named if not self.is_scale(name)]
        groups = [
            {"params": [p for p in own if p.ndim > 1], "weight_decay": WEIGHT_DECAY},
            {"params": [p for p in own if p.ndim <= 1], "weight_decay": 0.0},
        ]
        found: list[torch.optim.Optimizer] = [torch.optim.SGD(groups, lr=self.given.learning_rate, momentum=MOMENTUM, nesterov=True)]
        return [*found, torch.optim.Adam(scales, lr=self.scale_learning_rate)] if scales else found

    def _loss(self, model: "torch.nn.Module", images: "torch.Tensor", labels: "torch.Tensor") -> "torch.Tensor":
        """Kullback-Leibler divergence from the float network's answers, cross-entropy with the labels, or both."""
        import torch
        from torch.nn import functional as F

        scores, share = model(images), self.given.distillation
        total = scores.new_zeros(())
        if share > 0:
            with torch.no_grad():
                taught = F.log_softmax(self.teacher(images), 1)
            total = total + share * F.kl_div(F.log_softmax(scores, 1), taught, reduction="batchmean", log_target=True)
        if share < 1:
            total = total + (1 - share) * F.cross_entropy(scores, labels)
        return total
