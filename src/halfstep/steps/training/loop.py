"""The training loop: steps, averages, news and checkpoints. Hugging Face's accelerate owns device, precision and distribution.

    average <- e average + (1 - e) parameter        after each step, where e > 0

Every step begins with the same random numbers whatever was done before it, so that a run that goes on from a checkpoint ends with the
same bytes as one that was never interrupted.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor
from torch.fx import GraphModule

from halfstep import parallel
from halfstep.data import Data
from halfstep.data.source import Batch
from halfstep.errors import TrainingError
from halfstep.steps.checkpoint import Checkpoint
from halfstep.steps.training.accuracy import top1
from halfstep.steps.training.diagnosis import first_broken
from halfstep.steps.training.feed import Feed
from halfstep.steps.training.gradual import Batches, Gradual, GradualOptions
from halfstep.steps.training.holding import Held, Holding
from halfstep.steps.training.loss import Loss
from halfstep.steps.training.optimizer import Rates, make_optimizers, set_rates
from halfstep.steps.training.regularizer import Regularization, Regularizer
from halfstep.steps.training.state import State
from halfstep.steps.training.teachers import Teachers
from halfstep.steps.training.trainable import Trainable, learned_in_order

if TYPE_CHECKING:
    from accelerate import Accelerator

Precision = Literal["no", "bf16", "fp16"]


@dataclass(frozen=True)
class Networks:
    """trainable: what is trained. reference: the float network, node for node. teachers: those whose mean answer is learned: the float one,
    or others with the same inputs and classes.
    """

    trainable: Trainable
    reference: GraphModule
    teachers: tuple[GraphModule, ...]


@dataclass(frozen=True)
class Plan:
    """epochs: may be a part of one. average: e. precision: of the layers while they train; parameters stay float32."""

    epochs: float
    rates: Rates
    loss: Loss
    average: float
    precision: Precision
    regularization: Regularization
    holding: Holding
    gradual: GradualOptions


@dataclass(frozen=True)
class Watch:
    """Who is told what. entry: the name of the step's file in the ``checkpoint``, which is written every ``seconds``. progress: called
    with the steps done and the steps in all. tell: called with a line of news. validation: what the accuracy is measured on after each
    epoch.
    """

    checkpoint: Checkpoint | None = None
    entry: str = "0-finetune"
    seconds: float = math.inf
    progress: Callable[[int, int], None] = lambda done, total: None
    tell: Callable[[str], None] = lambda line: None
    validation: Data | None = None


@dataclass(frozen=True)
class Outcome:
    """losses: of each step, the mean over all processes. accuracies: in percent after each epoch, where they were measured. notes: for the
    report.
    """

    losses: list[float]
    accuracies: list[float]
    notes: list[str]


def train(networks: Networks, feed: Feed, plan: Plan, watch: Watch, batches: Batches) -> Outcome:
    """Train in place, from where the checkpoint stands if there is one; `TrainingError` names the layer at which a loss broke.

    batches: calibration inputs, for grids that are found anew on the way.
    """
    with torch.random.fork_rng(), torch.enable_grad(), parallel.all_threads():
        training = _Training(networks, feed, plan, watch, batches)
        try:
            training.run()
        finally:
            training.close()
    return Outcome(training.state.losses, training.accuracies, training.held.notes())


class _Training:
    def __init__(self, networks: Networks, feed: Feed, plan: Plan, watch: Watch, batches: Batches) -> None:
        self.trainable, self.feed, self.plan, self.watch = networks.trainable, feed, plan, watch
        trainable = self.trainable
        self.accelerator = _accelerator(plan.precision)
        self.regularizer = trainable.regularizer = Regularizer(trainable.network, plan.regularization)
        trainable.to(self.accelerator.device)
        self.held = trainable.held = Held(trainable, networks.reference, plan.holding)
        optimizers = make_optimizers(trainable, plan.rates)
        average = [p.detach().clone() for p in trainable.parameters()] if plan.average else []
        self.state = State(trainable, optimizers, average)
        self.model, *self.optimizers = self.accelerator.prepare(trainable, *optimizers)
        self.per_epoch = feed.num_batches()
        self.num_steps = max(1, round(plan.epochs * self.per_epoch))
        asked = networks.teachers if plan.loss.asks_teacher else ()
        self.teachers = Teachers(asked, self.accelerator.device, feed.views * self.per_epoch, self.accelerator.autocast)
        self.gradual = Gradual(trainable.network, plan.gradual, self.num_steps, batches)
        self.accuracies: list[float] = []
        self.quantizers = learned_in_order(trainable.network)

    def run(self) -> None:
        """All steps that are left, then the averages in place of the parameters."""
        if self.watch.checkpoint is not None and self.state.load(self.watch.checkpoint, self.watch.entry):
            self.gradual.resume(self.state.num_steps - 1)
            self.watch.tell(f"Training goes on at step {self.state.num_steps} of {self.num_steps}.")
        saved = begun = time.monotonic()
        first = self.state.num_steps
        for epoch in range(first // self.per_epoch, math.ceil(self.num_steps / self.per_epoch)):
            start = epoch * self.per_epoch
            last = min(self.per_epoch, self.num_steps - start)
            for batch in self.feed.epoch(epoch, self.state.num_steps - start, last):
                self._step(batch)
                self.watch.progress(self.state.num_steps, self.num_steps)
                is_last = self.state.num_steps == self.num_steps  # what follows may fail: the training is not done again for it
                if self.watch.checkpoint is not None and (is_last or time.monotonic() - saved >= self.watch.seconds):
                    self.state.save(self.watch.checkpoint, self.watch.entry)
                    saved = time.monotonic()
            self._news(epoch, first, time.monotonic() - begun)
        self._use_averages()

    def close(self) -> None:
        """Undo what accelerate did to the network, and bring it back to the processor it came from."""
        self.accelerator.unwrap_model(self.model, keep_fp32_wrapper=False)
        self.trainable.to("cpu")
        self.teachers.close()

    def _step(self, batch: Batch) -> None:
        """One step of the optimizer."""
        step, device = self.state.num_steps, self.accelerator.device
        torch.manual_seed(hash((self.feed.seed, step, parallel.index())) % 2**63)
        inputs = tuple(_laid_out(x.to(device)) for x in batch.inputs)
        labels = None if batch.labels is None else batch.labels.to(device)
        self._begin_stage(step)
        self.model.train()
        set_rates(self.state.optimizers, step, self.num_steps, self.plan.rates.warm_up)
        for index, quantizer in enumerate(self.quantizers):
            quantizer.follow(step / self.num_steps, index, len(self.quantizers))
        taught = self.teachers(inputs, step)
        loss = self.plan.loss(self.model(*inputs), taught, labels) + self.regularizer(step / self.num_steps)
        value = float(self.accelerator.reduce(loss.detach(), "mean"))
        if not math.isfinite(value):
            raise self._broken(inputs, value)
        for optimizer in self.optimizers:
            optimizer.zero_grad()
        self.accelerator.backward(loss)
        for optimizer in self.optimizers:
            optimizer.step()
        self.held.update(step, self.num_steps)
        self.state.losses.append(value)
        if self.state.average:
            torch._foreach_lerp_(self.state.average, [p.detach() for p in self.trainable.parameters()], 1 - self.plan.average)

    def _begin_stage(self, step: int) -> None:
        """Other bits, if it is time for them: nothing is remembered of parameters that begin anew."""
        begun = self.gradual.enter(step)
        if begun is None:
            return
        self.held.begin()
        new = {id(parameter) for parameter in begun}
        for optimizer in self.state.optimizers:
            for parameter in begun:
                optimizer.state.pop(parameter, None)
        for average, parameter in zip(self.state.average, self.trainable.parameters(), strict=False):
            if id(parameter) in new:
                average.copy_(parameter.detach())
        bits = self.gradual.bits()
        self.watch.tell(f"From step {step + 1} on: " + ("the recipe's grids." if bits is None else f"at least {bits} bits."))

    def _broken(self, inputs: tuple[Tensor, ...], value: float) -> TrainingError:
        place = first_broken(self.trainable.network, inputs)
        step = f"The loss is {value} in step {self.state.num_steps + 1} of {self.num_steps}"
        where = f": {place} is the first tensor that is not finite" if place else ", though every layer's output is finite"
        kept = ""
        if self.watch.checkpoint is not None and self.watch.checkpoint.read(self.watch.entry, "training") is not None:
            kept = f" The last good state is kept in '{self.watch.checkpoint.folder}': the same command with --resume goes on from there."
        return TrainingError(f"{step}{where}. Lower the learning rate (now {self.plan.rates.learning_rate:g}).{kept}")

    def _use_averages(self) -> None:
        with torch.no_grad():
            for parameter, average in zip(self.trainable.parameters(), self.state.average, strict=False):
                parameter.copy_(average)
        self.held.restore()

    def _news(self, epoch: int, first: int, seconds: float) -> None:
        """Loss, accuracy and time left."""
        recent = self.state.losses[epoch * self.per_epoch :]
        shown = ""
        if self.watch.validation is not None and parallel.index() == 0:
            self.accuracies.append(top1(self.trainable.network, self.watch.validation, self.accelerator.device))
            shown = f", top-1 {self.accuracies[-1]:.2f} %"
        done = self.state.num_steps
        left = seconds / max(done - first, 1) * (self.num_steps - done)
        self.watch.tell(
            f"Epoch {done / self.per_epoch:.4g} of {self.plan.epochs:g}: loss {sum(recent) / len(recent):.4f}{shown}, {_span(left)} left"
        )


def _span(seconds: float) -> str:
    """``90`` -> "1.5 min"."""
    return f"{seconds:.0f} s" if seconds < 60 else f"{seconds / 60:.1f} min" if seconds < 3600 else f"{seconds / 3600:.1f} h"


def _laid_out(x: Tensor) -> Tensor:
    """Images with their channels innermost in memory, which convolutions on the CPU like better."""
    return x.contiguous(memory_format=torch.channels_last) if x.ndim == 4 else x


def _accelerator(precision: Precision) -> Accelerator:
    """One for this run. Its state is shared by all of a process; a run of another precision before this one must not decide."""
    from accelerate import Accelerator
    from accelerate.state import AcceleratorState
    from accelerate.utils import DistributedDataParallelKwargs

    if AcceleratorState._shared_state and AcceleratorState().mixed_precision != precision:
        AcceleratorState._reset_state()
    same_buffers = DistributedDataParallelKwargs(broadcast_buffers=False)
    return Accelerator(mixed_precision=precision, cpu=not torch.cuda.is_available(), kwargs_handlers=[same_buffers])
