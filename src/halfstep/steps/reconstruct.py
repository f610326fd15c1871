"""Block reconstruction: the codes of all layers of a residual block (or transformer layer) learned together, from the codes they have.

    min over V, s_a of   sum_o || z - ẑ ||² + λ f_reg(V)          mean over samples and positions

z: the unit's output in the float network. ẑ: with soft codes (V), quantized activations (steps s_a), and the input that arrives behind the
quantized units. V and f_reg as in AdaRound, over the layers of the unit together; `unit_learning` says where V starts. Li et al. 2021,
"BRECQ: pushing the limit of post-training quantization by block reconstruction", section 3. With ``drop`` above 0 each value of the unit's
input and of its inner activations comes from the float side with that probability (Wei et al. 2022, "QDrop: randomly dropping quantization
for extremely low-bit post-training quantization"), and the activations' steps are learned in the same run.

Deviations. The codes start from those of an earlier step `round`, so that a thousand iterations do for 20,000, at rates to match (V: 0.03
for 0.001; steps, learned as logarithms: 0.004). The result is kept only where the unit's error with hard codes, nothing dropped, became
smaller on the calibration data. Biases and weight scales stay.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar, final

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.fx import GraphModule, Node

from halfstep.graph.edges import behind_quantizer, quantizer_of
from halfstep.graph.edit import attribute
from halfstep.graph.names import operator_name
from halfstep.graph.operators import WeightedLayer
from halfstep.graph.sensitivity import squared_slopes
from halfstep.graph.units import Unit, UnitKind, find_units, part_of_graph
from halfstep.grid import Quantized
from halfstep.quantizers import UniformQuantizer
from halfstep.rounding.descent import Adam, Samples, learning, minibatches
from halfstep.rounding.relaxation import Schedule, annealed, regularization_slope
from halfstep.steps.abstract import STEPS, AbstractStep, Context
from halfstep.steps.round import Round, layers_to_round, store
from halfstep.steps.unit_learning import DroppingQuantizer, SoftCodes, drop_mask
from halfstep.steps.walk import MEMORY, Walk

_CHUNK = 256  # samples at a time where nothing is learned


@dataclass(frozen=True)
class _Task:
    """A unit with its data: x̂ and x [N, ...], what it should return, and how much each value counts (None: all alike).

    module: the unit, called with its input and ``constants``, which are named by their nodes. weights: those of the constants that are
    learned. quantizers: of activations, by path. num_channels: what the error is summed over. generator: of what is dropped.
    """

    inputs: Tensor
    float_inputs: Tensor
    targets: Tensor
    importance: Tensor | None
    module: nn.Module
    constants: dict[str, Tensor]
    weights: dict[str, SoftCodes]
    quantizers: dict[str, DroppingQuantizer]
    num_channels: int
    generator: torch.Generator

    def run(self, x: Tensor, weights: Iterable[Tensor]) -> Tensor:
        """The unit's output with these weights in place of those that are learned."""
        constants = self.constants | dict(zip(self.weights, weights, strict=True))
        found: Tensor = self.module(x, *constants.values())
        return found

    def error(self, codes: Iterable[Quantized]) -> float:
        """Over the whole calibration data, with these codes and nothing dropped."""
        weights, total = [quantized.dequantize() for quantized in codes], 0.0
        self.module.eval()
        with torch.no_grad():
            for start in range(0, len(self.inputs), _CHUNK):
                chunk = slice(start, start + _CHUNK)
                squares = (self.run(self.inputs[chunk], weights) - self.targets[chunk]).square_()
                total += float((squares if self.importance is None else squares * self.importance[chunk]).sum(dtype=torch.float64))
        return total / (self.targets.numel() / self.num_channels)


@final
@STEPS.register("reconstruct")
class Reconstruct(AbstractStep):
    """Block reconstruction (BRECQ; QDrop with ``drop`` above 0) behind a step `round`.

    unit: block, stretches between places where one tensor is alive, or layer. drop: probability with which a value comes from the float
    side while learning. learn_activation_steps: whether steps are learned too. num_iterations, batch_size: of each unit. learning_rate: of
    V. step_learning_rate: of the logarithms of the steps, falling to 0 in half a cosine wave. softness: how far h starts from the current
    code, below 1/2. regularization, warm_up, beta_start, beta_end, schedule: as for `adaround`. fisher: whether errors are weighted by the
    Fisher information. memory: gigabytes of activations held in memory; more than that goes to temporary files.
    """

    quantizes: ClassVar[bool] = True

    unit: UnitKind = "block"
    drop: float = Field(default=0.5, ge=0, lt=1)
    learn_activation_steps: bool = True
    num_iterations: int = Field(default=1000, ge=1)
    batch_size: int = Field(default=32, ge=1)
    learning_rate: float = Field(default=0.03, gt=0)
    step_learning_rate: float = Field(default=4e-3, gt=0)
    softness: float = Field(default=0.3, gt=0, lt=0.5)
    regularization: float = Field(default=0.01, ge=0)
    warm_up: float = Field(default=0.2, ge=0, lt=1)
    beta_start: float = Field(default=20.0, gt=1)
    beta_end: float = Field(default=2.0, gt=1)
    schedule: Schedule = "cosine"
    fisher: bool = False
    memory: float = Field(default=MEMORY / 2**30, gt=0)

    def apply(self, graph: GraphModule, context: Context) -> GraphModule:
        """Replace codes and steps where that lowers the error of a unit."""
        assert context.reference is not None
        units = {unit.nodes[0]: unit for unit in find_units(graph, self.unit)}
        layers = {layer.node for layer in layers_to_round(graph)}
        walk = Walk(graph, context.reference, context.batches(), memory=int(self.memory * 2**30))
        ratios = []
        for index, node in enumerate(walk.stops(units)):
            context.progress(self.name, index, len(units))
            chosen = [layer for layer in units[node].layers if layer.node in layers]
            if chosen:
                ratios.append(self._reconstruct(walk, units[node], chosen, context, index))
        lower = sum(ratio < 1 for ratio in ratios)
        total = sum(ratios) / max(len(ratios), 1)
        context.notes.append(f"Reconstruction lowered the error of {lower} of {len(ratios)} units, to {total:.0%} on average.")
        return graph

    def ensures(self, graph: GraphModule) -> None:
        """Every quantized weight lies on its grid."""
        Round().ensures(graph)

    def _reconstruct(self, walk: Walk, unit: Unit, layers: list[WeightedLayer], context: Context, index: int) -> float:
        """Learn one unit, or take what an interrupted run found, and store it; its error relative to before."""
        entry = (f"{context.position}-{self.name}", f"{index}-{unit.name}")
        saved = None if context.checkpoint is None else context.checkpoint.read(*entry)
        if saved is None:
            generator = context.generator_for(index)
            with learning():
                saved = self._solved(self._task(walk, unit, layers, context, generator), generator)
            if context.checkpoint is not None:
                context.checkpoint.write(*entry, saved)
        for layer in layers:
            start = _quantized(walk.graph, layer)
            codes = saved[f"codes {layer.weight.name}"].to(start.codes)
            store(walk.graph, layer, Quantized(codes, start.scale, start.zero_point, start.grid))
        for path, quantizer in _activation_quantizers(unit).items():
            if quantizer.is_enabled:
                quantizer.set(saved[f"scale {path}"].to(quantizer.scale), quantizer.zero_point.clone())
        return float(saved["ratio"])

    def _task(self, walk: Walk, unit: Unit, layers: list[WeightedLayer], context: Context, generator: torch.Generator) -> _Task:
        pairs = list(walk.pairs(unit.source))
        twins = [walk.twin(node) for node in unit.nodes]
        exact = part_of_graph(walk.twin(unit.source), twins, [walk.twin(node) for node in unit.constants], {})
        float_constants = {node.name: walk.constant(node, is_float=True).detach() for node in unit.constants}
        with torch.no_grad():
            targets = torch.cat([exact(pair.float, *float_constants.values()) for pair in pairs])
        on_device = torch.Generator(targets.device).manual_seed(int(torch.randint(2**62, (), generator=generator)))
        quantizers = {}
        for path, quantizer in _activation_quantizers(unit).items():
            drop = 0.0 if path == str(unit.output.target) else self.drop
            is_learned = self.learn_activation_steps and _first_call(walk.graph, path) in unit.nodes
            quantizers[path] = DroppingQuantizer(quantizer, drop, is_learned, on_device)
        names = [layer.weight.name for layer in layers]
        starts = [_quantized(walk.graph, layer) for layer in layers]
        return _Task(
            torch.cat([pair.quantized for pair in pairs]),
            torch.cat([pair.float for pair in pairs]),
            targets,
            squared_slopes(walk.reference, twins[-1], context.batches()) if self.fisher else None,
            part_of_graph(unit.source, unit.nodes, unit.constants, dict(quantizers)),
            {node.name: walk.constant(node).detach() for node in unit.constants},
            {name: SoftCodes(float_constants[name], start, self.softness) for name, start in zip(names, starts, strict=True)},
            quantizers,
            targets.shape[-1 if operator_name(unit.layers[-1].node) == "linear" else 1],
            on_device,
        )

    def _solved(self, task: _Task, generator: torch.Generator) -> dict[str, Tensor]:
        """Codes, steps, and the error relative to before: what was learned, or what was there if that is better."""
        start = [soft.start for soft in task.weights.values()]
        before = task.error(start)
        self._descend(task, generator)
        found = [soft.hard() for soft in task.weights.values()]
        after = task.error(found)
        is_better = after < before
        if not is_better:
            found = start
            for quantizer in task.quantizers.values():
                quantizer.forget()
        saved = {f"codes {name}": quantized.codes for name, quantized in zip(task.weights, found, strict=True)}
        saved |= {f"scale {path}": quantizer.scale for path, quantizer in task.quantizers.items()}
        return saved | {"ratio": torch.tensor(after / before if is_better else 1.0, dtype=torch.float64)}

    def _descend(self, task: _Task, generator: torch.Generator) -> None:
        """Move V and the steps of the task."""
        layers = list(task.weights.values())
        logarithms = [quantizer.logarithm for quantizer in task.quantizers.values() if quantizer.logarithm.requires_grad]
        adams = [Adam(soft.V, self.learning_rate) for soft in layers]
        step_adams = [Adam(logarithm.data, self.step_learning_rate) for logarithm in logarithms]
        draw = _Draws(task, self.drop)
        task.module.train()
        sizes = (self.batch_size, self.num_iterations)
        for index, chosen in enumerate(minibatches(len(task.inputs), *sizes, generator, task.inputs.device)):
            parts = [soft.soft() for soft in layers]
            weights = [weight.requires_grad_() for weight, _, _ in parts]
            with torch.enable_grad():
                output = task.run(draw.inputs(chosen), weights)
            slopes = torch.autograd.grad(output, [*weights, *logarithms], draw.slope(output.detach(), chosen))
            for soft, adam, (_, h, in_V), slope in zip(layers, adams, parts, slopes[: len(layers)], strict=True):
                gradient = slope * soft.step
                if index >= self.warm_up * self.num_iterations:
                    gradient.add_(regularization_slope(h, self._beta(index)), alpha=self.regularization)
                adam.descend(gradient.mul_(in_V))
            for adam, slope in zip(step_adams, slopes[len(layers) :], strict=True):
                adam.learning_rate = annealed("cosine", self.step_learning_rate, 0.0, index / self.num_iterations)
                adam.descend(slope)

    def _beta(self, index: int) -> float:
        first = self.warm_up * self.num_iterations
        return annealed(self.schedule, self.beta_start, self.beta_end, (index - first) / (self.num_iterations - first))


class _Draws:
    """What the minibatches of a task are made of."""

    def __init__(self, task: _Task, drop: float) -> None:
        self._task, self._drop = task, drop
        self._inputs, self._targets = Samples(task.inputs), Samples(task.targets)
        self._float_inputs = Samples(task.float_inputs) if drop else None
        self._importance = None if task.importance is None else Samples(task.importance)

    def inputs(self, chosen: Tensor) -> Tensor:
        """x̂ of the samples ``chosen``, with x in the place of dropped values."""
        x = self._inputs.take(chosen)
        if self._float_inputs is None or not x.is_floating_point():
            return x
        return torch.lerp(x, self._float_inputs.take(chosen), drop_mask(x, self._drop, self._task.generator))

    def slope(self, output: Tensor, chosen: Tensor) -> Tensor:
        """The gradient of the error in the output, which is overwritten."""
        difference = output.sub_(self._targets.take(chosen)).mul_(2 * self._task.num_channels / output.numel())
        return difference if self._importance is None else difference.mul_(self._importance.take(chosen))


def _activation_quantizers(unit: Unit) -> dict[str, UniformQuantizer]:
    """By path, those its nodes call."""
    found = {str(node.target): quantizer_of(node) for node in unit.nodes}
    return {path: quantizer for path, quantizer in found.items() if isinstance(quantizer, UniformQuantizer)}


def _first_call(graph: GraphModule, path: str) -> Node:
    nodes: Iterable[Node] = graph.graph.nodes
    return next(node for node in nodes if node.op == "call_module" and node.target == path)


def _quantized(graph: GraphModule, layer: WeightedLayer) -> Quantized:
    """The layer's weight as its quantizer sees it now."""
    quantizer = quantizer_of(layer.weight)
    assert isinstance(quantizer, UniformQuantizer)
    weight = attribute(graph, behind_quantizer(layer.weight))
    return Quantized(quantizer.quantize(weight).codes, quantizer.scale.clone(), quantizer.zero_point.clone(), quantizer.grid)
