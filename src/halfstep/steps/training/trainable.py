"""A quantized graph as something to train, and what training found put back into the graph.

    w / n  ->  learned quantizer  ->  layer without bias  ->  batch norm (gain a, shift b, estimates E, VAR)
    codes stay,    s <- s n' f,    bias <- b - E f          f = a / sqrt(VAR + eps),   n' = 1

Every fixed quantizer becomes a learned one that starts on its grid. A layer whose batch norm was folded gets one again (`live_norm`): its
gain and shift are the deviation and mean that the layer's output has in the float network on the calibration data, its estimates are taken
on the quantized network, which is batch-norm re-estimation. Behind it the length of a channel's weights does not matter; each channel is
divided by its length n (all by the root mean square of them where the weight has one scale), so that one learning rate suits all layers.
Afterwards the batch norm goes into the scales of the channels, or their levels where these are no grid, and the bias, exactly and without
changing a code. Biases are not rounded while training.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Literal, final

import torch
from torch import Tensor, nn
from torch.fx import GraphModule, Node

from halfstep.errors import TrainingError
from halfstep.graph.capture import in_eval_mode
from halfstep.graph.channels import num_reads, scale_channels
from halfstep.graph.edges import behind_quantizer, quantizer_of
from halfstep.graph.edit import add_module, attribute, finish, set_parameter
from halfstep.graph.operators import WeightedLayer, weighted_layers
from halfstep.graph.run import cut, observe
from halfstep.graph.serialize import duplicate
from halfstep.graph.tree import put
from halfstep.quantizers import AbstractLearnedQuantizer, AccumulatorQuantizer, UniformQuantizer, in_float
from halfstep.quantizers.learned import Positive, learned_kind
from halfstep.registry import Spec
from halfstep.steps.training.edges import is_stored_weight, learned_activations, leave_first_call
from halfstep.steps.training.live_norm import LiveNorm

Batches = Callable[[], Iterable[tuple[Tensor, ...]]]
Start = Literal["calibrated", "paper"]
StartWeights = Literal["float", "rounded"]
NormKind = Literal["live", "folded"]

_TOO_FEW = "more than 1 value per channel"  # torch says so


@dataclass(frozen=True)
class Setup:
    """weights, activations: quantizers. start: of their parameters. start_weights: the float weights or the rounded ones. batch_norm:
    whether layers get a batch norm while they train.
    """

    weights: Spec
    activations: Spec
    start: Start
    start_weights: StartWeights
    batch_norm: NormKind


@final
class Trainable(nn.Module):
    """network: the graph to train, called as the user's model. norms: by the user's name of a layer, the path of its batch norm in it."""

    def __init__(self, network: GraphModule, norms: dict[str, str]) -> None:
        super().__init__()
        self.network, self.norms = network, norms

    def forward(self, *inputs: Tensor) -> Any:
        """What the user's model returns; `TrainingError` where a batch norm that was not folded gets a single value a channel."""
        try:
            return self.network(*inputs)
        except ValueError as error:
            if _TOO_FEW not in str(error):
                raise
            raise TrainingError(
                "A batch norm of the network gets a single value for each channel, which has no deviation: raise the option batch_size of "
                "'finetune'. A network that takes batches of 1 only cannot be trained with such a batch norm."
            ) from error

    def scale_parameters(self) -> list[nn.Parameter]:
        """What quantizers learn, and the gains of batch norms."""
        kinds = (AbstractLearnedQuantizer, Positive)
        found = {id(p): p for module in self.modules() if isinstance(module, kinds) for p in module.parameters()}
        return list(found.values())

    def live_norms(self) -> list[LiveNorm]:
        """Its batch norms."""
        return [module for module in self.modules() if isinstance(module, LiveNorm)]

    def reestimate(self, batches: Iterable[tuple[Tensor, ...]]) -> None:
        """Take the estimates of its batch norms anew over ``batches``."""
        norms = self.live_norms()
        if not norms:
            return
        self.eval()
        for norm in norms:
            norm.forget()
            norm.train()
        with torch.no_grad():
            for inputs in batches:
                self(*inputs)
        for norm in norms:
            norm.restore()


def make_trainable(graph: GraphModule, reference: GraphModule, setup: Setup, batches: Batches) -> Trainable:
    """A copy of the quantized ``graph`` to train. reference: the float network, node for node. batches: calibration inputs."""
    network = duplicate(graph)
    _drop_quantizers_that_repeat(network)
    named = _layers_with_norm(network, graph.meta["normalized"]) if setup.batch_norm == "live" else {}
    if setup.start_weights == "float":
        _take_float_weights(network, reference)
    lengths = {name: _lengths(network, layer) for name, layer in named.items()}
    moments = _moments(reference, set(named), batches)
    _learn(network, setup, named, lengths)
    norms = {name: _insert_norm(network, layer, *moments[name]) for name, layer in named.items()}
    trainable = Trainable(finish(network), norms)
    if setup.start == "paper":
        _start_activations(network, batches)
    trainable.reestimate(part for inputs in batches() for part, _ in cut(network, inputs))
    return trainable


def _drop_quantizers_that_repeat(network: GraphModule) -> None:
    """Leave one call of every activation quantizer, the first, and none of the biases'.

    A quantizer is called again behind operators that move its values (`place_quantizers`), where it changes nothing; but its slope would be
    counted twice, and what lies on the last code would lose its gradient.
    """
    for path in dict.fromkeys(str(node.target) for node in network.graph.nodes if quantizer_of(node) is not None):
        leave_first_call(network, path)
    for node in list(network.graph.nodes):
        if isinstance(quantizer_of(node), AccumulatorQuantizer):
            node.replace_all_uses_with(node.args[0])
            network.graph.erase_node(node)


def learned_in_order(network: GraphModule) -> list[AbstractLearnedQuantizer]:
    """Its learned quantizers in the order of computation."""
    found = [quantizer_of(node) for node in network.graph.nodes]
    return list(dict.fromkeys(quantizer for quantizer in found if isinstance(quantizer, AbstractLearnedQuantizer)))


def _layers_with_norm(network: GraphModule, normalized: Iterable[str]) -> dict[str, WeightedLayer]:
    """By name, the layers that had a batch norm and can have one again: weight and bias are their own, channels have an axis."""
    found = {}
    for layer in weighted_layers(network):
        stored = [behind_quantizer(node) for node in (layer.weight, layer.bias) if node is not None]
        has_own = all(node.op == "get_attr" and num_reads(node) == 1 for node in stored)
        if layer.name in normalized and has_own and (layer.output_axis == 0 or layer.groups == 1):
            found[layer.name] = layer
    return found


def _take_float_weights(network: GraphModule, reference: GraphModule) -> None:
    """The weights and biases of the float network in place of the rounded ones."""
    twins = {str(node.meta["name"]): node for node in reference.graph.nodes}
    for layer in weighted_layers(network):
        source = behind_quantizer(layer.weight)
        if source.op == "get_attr":
            set_parameter(network, source, attribute(reference, twins[str(source.meta["name"])]))


def _lengths(network: GraphModule, layer: WeightedLayer) -> Tensor:
    """N [C_out]: of each channel's weights, or the root mean square of them all where the weight has one scale; 1 for channels of zeros."""
    weight = attribute(network, behind_quantizer(layer.weight))
    length = weight.movedim(layer.output_axis, 0).flatten(1).norm(dim=1)
    quantizer = quantizer_of(layer.weight)
    if quantizer is not None and quantizer.grid.channel_axis is None:
        length = length.square().mean().sqrt().expand_as(length)
    return torch.where(length > 0, length, 1)


def _moments(reference: GraphModule, names: set[str], batches: Batches) -> dict[str, tuple[Tensor, Tensor]]:
    """Standard deviation and mean [C_out] of the layers' outputs in the float network over ``batches``."""
    sums: dict[str, list[Tensor]] = {}
    count: dict[str, int] = {}
    nodes = {layer.node for layer in weighted_layers(reference) if layer.name in names}

    def see(node: Node, output: Tensor) -> Tensor:
        name, rows = str(node.meta["name"]), output.movedim(1, 0).flatten(1)
        found = [rows.sum(1, dtype=torch.float64), rows.double().square().sum(1)]
        sums[name] = [old + new for old, new in zip(sums[name], found, strict=True)] if name in sums else found
        count[name] = count.get(name, 0) + rows.shape[1]
        return output

    if nodes:
        for inputs in batches():
            for part, _ in cut(reference, inputs):
                observe(reference, part, nodes, see)
    return {name: _deviation_and_mean(first / count[name], second / count[name]) for name, (first, second) in sums.items()}


def _deviation_and_mean(mean: Tensor, mean_square: Tensor) -> tuple[Tensor, Tensor]:
    """float32; a channel that does not vary gets a thousandth of the largest deviation, so that its gain is positive."""
    deviation = (mean_square - mean.square()).clamp(min=0).sqrt()
    return deviation.clamp(min=max(1e-3 * float(deviation.max()), 1e-12)).float(), mean.float()


def _learn(network: GraphModule, setup: Setup, named: dict[str, WeightedLayer], lengths: dict[str, Tensor]) -> None:
    """Replace every fixed quantizer by a learned one, and divide the weights of layers with a norm by their lengths."""
    done: set[str] = set()
    owners = {behind_quantizer(layer.weight): name for name, layer in named.items()}
    for node in network.graph.nodes:
        fixed, path = quantizer_of(node), str(node.target)
        if not isinstance(fixed, UniformQuantizer) or path in done:
            continue
        done.add(path)
        source, is_weight = behind_quantizer(node), is_stored_weight(node)
        kind, options = learned_kind(setup.weights if is_weight else setup.activations)
        sizes = dict(zip(("num_channels", "num_groups"), fixed.scale.shape, strict=False))
        quantizer = kind(fixed.grid, **sizes, is_weight=source.op == "get_attr", **options)
        quantizer.expect(source.meta.get("shape", ()))
        scale = fixed.scale
        if source in owners:
            layer, length = named[owners[source]], lengths[owners[source]]
            set_parameter(network, source, scale_channels(attribute(network, source), layer, outputs=1 / length.double()))
            scale = scale / (length.view(-1, *[1] * (scale.ndim - 1)) if scale.ndim else length[0])
        quantizer.set(scale, fixed.zero_point)
        if setup.start == "paper" and source.op == "get_attr":
            quantizer.start(attribute(network, source))
        put(network, path, quantizer)


def _insert_norm(network: GraphModule, layer: WeightedLayer, deviation: Tensor, mean: Tensor) -> str:
    """A batch norm behind the layer in place of its bias; its path."""
    name = f"{layer.name}:batch_norm"
    path = add_module(network, name, LiveNorm(deviation, mean))
    if layer.bias is not None:
        layer.node.replace_input_with(layer.bias, None)  # type: ignore[arg-type]
        network.graph.erase_node(layer.bias)
        delattr(network, str(layer.bias.target))
    with network.graph.inserting_after(layer.node):
        norm = network.graph.call_module(path, (layer.node,))
    norm.meta = {**layer.node.meta, "name": name}
    layer.node.replace_all_uses_with(norm, delete_user_cb=lambda user: user is not norm)
    return path


def _start_activations(network: GraphModule, batches: Batches) -> None:
    """Show every activation quantizer the first batch of what stands on its edge in the float network."""
    sources = learned_activations(network)

    def see(node: Node, x: Tensor) -> Tensor:
        sources[node].start(x)
        return x

    with in_float(network), in_eval_mode(network):
        first, _ = cut(network, next(iter(batches())))[0]
        observe(network, first, set(sources), see)
