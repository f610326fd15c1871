"""The float networks of the studies of training: MobileNetV1 at four widths, trained on CIFAR-10 from scratch.

    rate(t): from 0 to the largest in the first fifth of the steps, then down to 0 in half a cosine wave

SGD with Nesterov momentum, cross-entropy with the labels (smoothed, if asked for), images mirrored and moved by up to 4 pixels. Weights
decay but for those of depthwise convolutions (Howard et al. 2017, "MobileNets", section 3.2: little or none on those).
"""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass
from pathlib import Path

import safetensors.torch
import torch
from torch import nn
from torch.nn import functional as F

from halfstep.data import Data, Preprocessing
from halfstep.errors import DataError
from halfstep.files import atomic_path
from halfstep.steps.abstract import Tell
from halfstep.steps.checkpoint import Checkpoint
from halfstep.steps.training.augmentation import Augmentation
from halfstep.steps.training.feed import Feed
from halfstep.steps.training.optimizer import set_rates
from halfstep.steps.training.state import State
from halfstep.studies.mobilenet_v1 import MobileNetV1
from halfstep.workflow.evaluate import evaluate

WIDTHS = {f"mobilenet_v1_{width}": width for width in (1.0, 0.75, 0.5, 0.25)}
PREPROCESSING = Preprocessing(mean=(0.4914, 0.4822, 0.4465), std=(0.247, 0.2435, 0.2616))
_STEP = "0-float"
_SECONDS = 60.0


@dataclass(frozen=True)
class FloatPlan:
    """epochs: over the training images. learning_rate: the largest. smoothing: of the labels. seed: of weights and batches."""

    epochs: float = 12.0
    batch_size: int = 128
    learning_rate: float = 0.2
    weight_decay: float = 5e-4
    warm_up: float = 0.2
    smoothing: float = 0.0
    seed: int = 0


def train(width: float, plan: FloatPlan, data: Data, validation: Data, checkpoint: Checkpoint, tell: Tell) -> tuple[MobileNetV1, float]:
    """The trained network, in evaluation mode, and its accuracy in percent; from where the checkpoint stands."""
    with torch.random.fork_rng(), torch.enable_grad():
        torch.manual_seed(plan.seed)
        network = MobileNetV1(width)
        network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        feed = Feed(data, plan.batch_size, plan.seed, Augmentation(flip=True, shift=4))
        num_steps = max(1, round(plan.epochs * feed.num_batches()))
        optimizer = _optimizer(network, plan)
        state = State(network, [optimizer], [])
        if state.load(checkpoint, _STEP):
            tell(f"Training goes on at step {state.num_steps} of {num_steps}.")
        _run(state, feed, num_steps, plan, validation, checkpoint, tell)
    return network.eval(), evaluate(network, validation)


def store(network: MobileNetV1, path: Path, facts: dict[str, str]) -> None:
    """Write the weights, whole or not at all; ``facts`` stand in the head of the file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    state = {name: tensor.detach().contiguous() for name, tensor in network.state_dict().items()}
    with atomic_path(path) as temporary:
        safetensors.torch.save_file(state, temporary, facts)


def load(width: float, path: Path) -> MobileNetV1:
    """What `store` wrote, in evaluation mode; `DataError` where the file holds something else."""
    network = MobileNetV1(width)
    try:
        network.load_state_dict(safetensors.torch.load_file(path))
    except (OSError, RuntimeError, safetensors.SafetensorError) as error:
        raise DataError(f"'{path}' does not hold a MobileNetV1 of width {width:g}. Remove it: it is trained anew.") from error
    return network.eval()


def train_to(path: Path, width: float, plan: FloatPlan, data: Data, validation: Data, resume: bool, tell: Tell) -> MobileNetV1:
    """Train, write the weights to ``path``, and say how good they are. What is done so far is kept beside it until then."""
    key: dict[str, object] = {"width": width, "data": data.name, **asdict(plan)}
    checkpoint = Checkpoint.start(path.with_suffix(".checkpoint"), key, resume)
    network, top1 = train(width, plan, data, validation, checkpoint, tell)
    store(network, path, {"top1": f"{top1:.2f}", "width": f"{width:g}"} | {name: str(value) for name, value in asdict(plan).items()})
    checkpoint.clear()
    tell(f"Top-1 {top1:.2f} %, {path.stat().st_size:,} bytes in '{path}'.")
    return network


def _optimizer(network: MobileNetV1, plan: FloatPlan) -> torch.optim.Optimizer:
    depthwise = {id(module.weight) for module in network.modules() if isinstance(module, nn.Conv2d) and module.groups > 1}
    is_decayed = {name: p.ndim > 1 and id(p) not in depthwise for name, p in network.named_parameters()}
    groups = [
        {
            "params": [p for name, p in network.named_parameters() if is_decayed[name] == decays],
            "base": plan.learning_rate,
            "weight_decay": plan.weight_decay if decays else 0.0,
        }
        for decays in (True, False)
    ]
    return torch.optim.SGD(groups, lr=plan.learning_rate, momentum=0.9, nesterov=True)


def _run(state: State, feed: Feed, num_steps: int, plan: FloatPlan, validation: Data, checkpoint: Checkpoint, tell: Tell) -> None:
    """All steps that are left; after each epoch a line says loss, accuracy and the time left."""
    network, (optimizer,) = state.model, state.optimizers
    begun = saved = time.monotonic()
    first, per_epoch = state.num_steps, feed.num_batches()
    while state.num_steps < num_steps:
        epoch = state.num_steps // per_epoch
        start, last = epoch * per_epoch, min(per_epoch, num_steps - epoch * per_epoch)
        network.train()
        for batch in feed.epoch(epoch, state.num_steps - start, last):
            set_rates([optimizer], state.num_steps, num_steps, plan.warm_up)
            _step(state, optimizer, batch.inputs[0], batch.labels, plan.smoothing)
            if time.monotonic() - saved >= _SECONDS:
                state.save(checkpoint, _STEP)
                saved = time.monotonic()
        recent = state.losses[start:]
        left = (time.monotonic() - begun) / (state.num_steps - first) * (num_steps - state.num_steps)
        tell(
            f"Epoch {state.num_steps / per_epoch:.4g} of {plan.epochs:g}: loss {sum(recent) / len(recent):.4f}, "
            f"top-1 {evaluate(network, validation):.2f} %, {left / 60:.1f} min left"
        )


def _step(state: State, optimizer: torch.optim.Optimizer, images: torch.Tensor, labels: torch.Tensor | None, smoothing: float) -> None:
    assert labels is not None
    loss = F.cross_entropy(state.model(images.contiguous(memory_format=torch.channels_last)), labels, label_smoothing=smoothing)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    state.losses.append(float(loss.detach()))
