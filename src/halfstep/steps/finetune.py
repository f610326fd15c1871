"""Training with quantization in the loop, from what post-training quantization found.

    min over weights, biases, scales of   d T^2 KL(float network || network) + (1 - d) CE(network, labels)

The quantizers (``weights``, ``activations``: LSQ and others, one file each in ``quantizers/``) say what a tensor becomes and which gradient
passes. They start on the grids that the steps before this one found, or as their papers do. Layers whose batch norm was folded get one
while they train (`training/live_norm.py`); it is re-estimated and folded again at the end, without changing a code. What comes out is the
graph of before with other weights, biases, scales and zero points: exports and integer programs know nothing of the training.

Esser et al. 2020, "Learned step size quantization", sections 2 and 3 (fine-tuning from a trained network, first and last layer at 8 bits by
the recipe's scheme, knowledge distillation of section 3.7). Deviations from that recipe: it starts from PTQ instead of the float weights
rounded to nearest, scales have a learning rate of their own, and one of tens of epochs is enough for one of ninety.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, ClassVar, final

import torch
from pydantic import Field, ValidationInfo, field_validator
from torch import Tensor
from torch.fx import GraphModule

from halfstep.errors import GraphError, RecipeError
from halfstep.graph.edges import behind_quantizer, quantizer_of
from halfstep.graph.edit import attribute
from halfstep.quantizers import quantizers
from halfstep.quantizers.learned import full_spec, learned_kind
from halfstep.registry import Spec
from halfstep.steps.abstract import STEPS, AbstractStep, Context
from halfstep.steps.correct_bias import is_quantized
from halfstep.steps.round import layers_to_round
from halfstep.steps.training.augmentation import Augmentation
from halfstep.steps.training.feed import Feed
from halfstep.steps.training.freezing import FreezingOptions
from halfstep.steps.training.gradual import GradualOptions
from halfstep.steps.training.holding import Holding
from halfstep.steps.training.loop import Networks, Plan, Precision, Watch, train
from halfstep.steps.training.loss import Loss
from halfstep.steps.training.optimizer import OptimizerKind, Rates
from halfstep.steps.training.pruning import PruningOptions
from halfstep.steps.training.regularizer import Regularization
from halfstep.steps.training.trainable import NormKind, Setup, Start, StartWeights, Trainable, make_trainable
from halfstep.steps.training.write_back import write_back


@final
@STEPS.register("finetune")
class Finetune(AbstractStep):
    """Train with quantization in the loop.

    weights, activations: the quantizers. start: where their parameters start, as calibrated before or as in their papers. start_weights:
    from the float weights or from the rounded ones. batch_norm: live or folded while training. epochs: over the training data; a part of
    one is allowed. batch_size: samples of a step, over all processes together. optimizer: sgd or adamw. learning_rate: of weights, biases
    and batch norms. scale_learning_rate: of scales, clipping points and offsets. weight_decay: of weights. warm_up: share of the steps in
    which rates rise; they fall in half a cosine wave after that. average: e of the moving average of the parameters that is kept in the
    end; 0 for none. distillation: share of the float network's answers in the loss, the rest being labels; 1 for data without labels.
    temperature: T. flip, shift: whether images are mirrored at random, and by how many pixels they are moved at most. warp: share of them
    that is turned, scaled and sheared at random instead. views: after so many epochs the same batches come again, and teachers are not
    asked again; 0 for new ones every epoch. precision: of the layers while training. gradual: bits to train at first, one after the other,
    for gradual_share of the steps together. damping: how strongly weights are pulled to their codes towards the end. freezing: whether
    weights that jump between two codes are frozen on one, with its thresholds; off without it. msqe: share of a learned pull on the error
    of the weights. keep_zeros: whether weights that are 0 in the float network stay so. prune: which share of the weights becomes 0, in
    which pattern; none without it. norm_samples: of the training data, as they are, on which the batch norms are estimated anew in the end.
    checkpoint_minutes: how often the state is kept, where the run has a place for it.
    """

    quantizes: ClassVar[bool] = True

    weights: Spec = "lsq"
    activations: Spec = "lsq"
    start: Start = "calibrated"
    start_weights: StartWeights = "rounded"
    batch_norm: NormKind = "live"
    epochs: float = Field(default=10.0, gt=0)
    batch_size: int = Field(default=128, ge=1)
    optimizer: OptimizerKind = "sgd"
    learning_rate: float = Field(default=0.01, gt=0)
    scale_learning_rate: float = Field(default=1e-3, ge=0)
    weight_decay: float = Field(default=1e-4, ge=0)
    warm_up: float = Field(default=0.02, ge=0, lt=1)
    average: float = Field(default=0.0, ge=0, lt=1)
    distillation: float = Field(default=1.0, ge=0, le=1)
    temperature: float = Field(default=1.0, gt=0)
    flip: bool = False
    shift: int = Field(default=0, ge=0)
    warp: float = Field(default=0.0, ge=0, le=1)
    views: int = Field(default=0, ge=0)
    precision: Precision = "no"
    gradual: tuple[Annotated[int, Field(ge=2, le=16)], ...] = ()
    gradual_share: float = Field(default=0.5, gt=0, lt=1)
    damping: float = Field(default=0.0, ge=0)
    freezing: FreezingOptions | None = None
    msqe: float = Field(default=0.0, ge=0)
    keep_zeros: bool = False
    prune: PruningOptions | None = None
    norm_samples: int = Field(default=4096, ge=1)
    checkpoint_minutes: float = Field(default=10.0, ge=0)

    def full_spec(self) -> Spec:
        """With the options of both quantizers written out."""
        own = self.model_dump(mode="json")
        return {self.name: own | {"weights": full_spec(self.weights), "activations": full_spec(self.activations)}}

    @field_validator("weights", "activations")
    @classmethod
    def _is_learned(cls, value: Spec) -> Spec:
        learned_kind(value)
        return value

    @field_validator("gradual")
    @classmethod
    def _falls(cls, value: tuple[int, ...], info: ValidationInfo) -> tuple[int, ...]:
        if list(value) != sorted(set(value), reverse=True):
            raise ValueError("bits fall from one to the next, as in [8, 4, 3]")
        if value and info.data.get("start_weights") != "float":
            raise ValueError("a training that begins with many bits begins with the float weights: set start_weights to float")
        return value

    def prepared(self, graph: GraphModule, context: Context) -> Trainable:
        """The quantized ``graph`` as something to train."""
        if context.reference is None or not is_quantized(graph):
            raise RecipeError(f"The step '{self.name}' trains a network on its grids: put it behind 'calibrate' or 'round' in the recipe.")
        setup = Setup(self.weights, self.activations, self.start, self.start_weights, self.batch_norm)
        return make_trainable(graph, context.reference, setup, context.batches)

    def apply(self, graph: GraphModule, context: Context) -> GraphModule:
        """Overwrite weights, biases, scales and zero points."""
        if context.training is None:
            raise RecipeError(f"The step '{self.name}' has nothing to train on: run it by halfstep.quantize or halfstep.finetune.")
        trainable = self.prepared(graph, context)
        assert context.reference is not None
        feed, plan, watch = self._feed(graph, context), self._plan(context), self._watch(context)
        networks = Networks(trainable, context.reference, context.teachers or (context.reference,))
        outcome = train(networks, feed, plan, watch, context.batches)
        trainable.reestimate(self.plain_batches(context))
        write_back(trainable, graph)
        losses = outcome.losses
        tenth = max(1, len(losses) // 10)
        context.notes.append(
            f"Trained for {len(losses)} steps of {self.batch_size} samples: the loss went from {sum(losses[:tenth]) / tenth:.4f} "
            f"to {sum(losses[-tenth:]) / tenth:.4f}."
        )
        context.notes.extend(outcome.notes)
        return graph

    def ensures(self, graph: GraphModule) -> None:
        """Every weight with a fixed grid lies on it, and every quantizer is switched on."""
        for layer in layers_to_round(graph):
            quantizer, weight = quantizer_of(layer.weight), attribute(graph, behind_quantizer(layer.weight))
            if quantizer is None or not torch.equal(quantizer(weight), weight):
                raise GraphError(f"The weight of '{layer.name}' does not lie on its grid.")
        if any(not quantizer.is_enabled for _, quantizer in quantizers(graph)):
            raise GraphError("A quantizer was left switched off by the training.")

    def _feed(self, graph: GraphModule, context: Context) -> Feed:
        assert context.training is not None
        fixed = graph.meta["batch_size"]
        if fixed is not None and self.batch_size != fixed:
            raise RecipeError(f"The network takes batches of {fixed} only: set the option batch_size of '{self.name}' to {fixed}.")
        augmentation = Augmentation(self.flip, self.shift, self.warp)
        return Feed(context.training, self.batch_size, context.generator.initial_seed(), augmentation, self.views)

    def plain_batches(self, context: Context) -> Iterator[tuple[Tensor, ...]]:
        """Inputs to estimate batch norms on: whole batches. With few of them the estimates alone cost a point or two at 2 bits."""
        training = context.training
        assert training is not None
        size = min(self.batch_size, training.num_samples or self.batch_size)
        for batch in training.batches(size, max(self.norm_samples, size), context.generator.initial_seed()):
            if len(batch.inputs[0]) == size:
                yield batch.inputs

    def _plan(self, context: Context) -> Plan:
        rates = Rates(self.optimizer, self.learning_rate, self.scale_learning_rate, self.weight_decay, self.warm_up)
        assert context.training is not None
        has_labels = next(context.training.batches(1, 1)).labels is not None
        if not has_labels and self.distillation < 1:
            context.notes.append(f"{context.training.name} has no labels: only the float network's answers were trained on.")
        loss = Loss(self.distillation if has_labels else 1.0, self.temperature)
        pull, holding = Regularization(self.damping, self.msqe), Holding(self.keep_zeros, self.freezing, self.prune)
        gradual = GradualOptions(self.gradual, self.gradual_share)
        return Plan(self.epochs, rates, loss, self.average, self.precision, pull, holding, gradual)

    def _watch(self, context: Context) -> Watch:
        return Watch(
            context.checkpoint,
            f"{context.position}-{self.name}",
            60 * self.checkpoint_minutes,
            lambda done, total: context.progress(self.name, done, total),
            context.tell,
            context.validation,
        )
