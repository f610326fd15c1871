"""Cross-layer equalization: share the ranges of the channels out between a layer and the ones that read it.

    W1[i] <- W1[i] / s_i     b1[i] <- b1[i] / s_i     W2[:, i] <- W2[:, i] s_i        s_i = sqrt(r1_i r2_i) / r2_i

W1, b1: weight and bias of a layer. W2: weight of the layer that reads it. r1_i: the largest |w| of output channel i of W1. r2_i: the
largest |w| of input channel i of W2. Afterwards both are sqrt(r1_i r2_i), so that a single grid a tensor serves all channels; the network
computes what it computed, because ReLU(x / s) = ReLU(x) / s. Pairs overlap (the depthwise layer of a triple is the second of one pair and
the first of the next): sweeps over all pairs are repeated until no factor differs from 1 by more than 10^-4. Nagel et al. 2019,
"Data-free quantization through weight equalization and bias correction", equations 9 to 11.

What may stand between the layers is listed in ``graph/chains.py``. A tensor that reaches anything but layers (an add, a concat, an output
of the network) is left alone, and so are layers that share their parameters. A clip such as ReLU6 then needs a bound of its own for each
channel, 6 / s_i. Three ways, each of which names the clips: leave its layers alone ("skip"); a ReLU and a minimum with these bounds
("keep"), which is exact, but the minimum runs in float between two grids; a ReLU alone as in the paper, section 5.1.1 ("replace"), which
integer kernels take over and which changes what the network computes where it clipped: next to nothing in some networks, in others a
fifth of the accuracy. Compare the float accuracy before and after.

Deviations: a tensor that several layers read is equalized too, with r2_i the largest of theirs. A channel whose r1_i is below 10^-6 of its
layer's largest is constant and left alone: its bias would become enormous. A channel that nobody reads (r2_i = 0) gets zeros for weights
and bias: such channels hold the largest weights of some networks, and would set the grid of all others. Behind a flatten, a channel of the
second layer is a block of columns. Factors are accumulated in float64 and applied once.
"""

from __future__ import annotations

from typing import Literal, final

import torch
from pydantic import Field
from torch import Tensor
from torch.fx import GraphModule, Node

from halfstep.graph.chains import Chain, chains, clip_bounds, moved, output_place
from halfstep.graph.channels import beside, blocks, scale_channels, scale_outputs
from halfstep.graph.edit import add_parameter, attribute, finish, set_parameter
from halfstep.graph.names import operator_name
from halfstep.graph.operators import WeightedLayer
from halfstep.steps.abstract import STEPS, AbstractStep, Context
from halfstep.steps.float_only import refuse_quantizers

_DEAD = 1e-6
_TOLERANCE = 1e-4


@final
@STEPS.register("equalize")
class Equalize(AbstractStep):
    """clip: what to do with layers before a clip with an upper bound (ReLU6). "skip": leave them alone. "keep": bound every channel on its
    own, in float. "replace": by a ReLU, which changes what the network computes where it clipped.

    max_sweeps: sweeps over all pairs of layers, if they do not settle before.
    """

    clip: Literal["skip", "keep", "replace"] = "skip"
    max_sweeps: int = Field(default=200, ge=1)

    @property
    def is_exact(self) -> bool:
        """A ReLU in place of a clip lets more through."""
        return self.clip != "replace"

    def apply(self, graph: GraphModule, context: Context) -> GraphModule:
        """Scale weights and biases; the graph itself stays, but for clips that are replaced."""
        refuse_quantizers(graph, self.name)
        found = chains(graph)
        chosen = [chain for chain in found if chain.obstacle is None and self._may_scale(chain)]
        clips = _names(node for chain in chosen for node in chain.bounded)
        left = _names(node for chain in found if chain.obstacle is None and chain not in chosen for node in chain.bounded)
        extents = _Extents(graph, chosen)
        num_sweeps = extents.settle(self.max_sweeps)
        for chain, factor, is_read in zip(chosen, extents.factors, extents.is_read, strict=True):
            _scale(graph, chain, factor, is_read)
            for node in reversed(chain.bounded):  # the places of channels are followed from the first layer on
                if self.clip == "keep":
                    _bound_channels(graph, chain, node, factor)
                node.target, node.args, node.kwargs = torch.ops.aten.relu.default, node.args[:1], {}
        context.notes.append(f"Equalized {len(chosen)} layers with those that read them, in {num_sweeps} sweeps.")
        if clips and self.clip == "keep":
            context.notes.append(f"Equalization gave these clips a bound for each channel, which runs in float: {', '.join(clips)}.")
        elif clips:
            context.notes.append(f"Equalization replaced clips by ReLUs, also in the float network: {', '.join(clips)}.")
        context.notes += _remarks(found, left)
        return finish(graph)

    def _may_scale(self, chain: Chain) -> bool:
        if not chain.bounded:
            return True
        return self.clip != "skip" and all(clip_bounds(node)[0] == 0 for node in chain.bounded)


def _names(nodes: object) -> list[str]:
    return list(dict.fromkeys(str(node.meta["name"]) for node in nodes))  # type: ignore[attr-defined]


def _remarks(found: list[Chain], left: list[str]) -> list[str]:
    """Which clips and batch norms were in the way."""
    norms = _names(
        c.obstacle for c in found if c.obstacle is not None and operator_name(c.obstacle).startswith(("BatchNorm", "batch_norm"))
    )
    remarks = []
    if left:
        remarks.append(f"Not equalized, because a clip bounds all channels alike (of a ReLU6, 'clip' says what to do): {', '.join(left)}.")
    if norms:
        remarks.append(f"Not equalized, because a batch norm follows that is not folded: {', '.join(norms)}.")
    return remarks


def _bound_channels(graph: GraphModule, chain: Chain, node: Node, factor: Tensor) -> None:
    """Behind the clip ``node``, the minimum with its upper bound divided by ``factor`` [C]."""
    passed = next(reader.passed for reader in chain.readers if node in reader.passed)
    place, source = output_place(chain.first), chain.first.node
    for operator in passed[: passed.index(node) + 1]:
        behind = moved(operator, source, place)
        assert behind is not None  # the chain passed it
        place, source = behind, operator
    shape = [1] * len(node.meta["shape"])
    shape[place.axis] = -1
    bounds = (clip_bounds(node)[1] / factor).repeat_interleave(place.block).view(shape).to(attribute(graph, chain.first.weight).dtype)
    read = add_parameter(graph, beside(graph, chain.first, f"{node.name}_bounds"), bounds, before=node)
    with graph.graph.inserting_after(node):
        bounded = graph.graph.call_function(torch.ops.aten.minimum.default, (node, read))
    bounded.meta = {**node.meta, "name": f"{node.meta['name']}:bounds"}
    node.replace_all_uses_with(bounded, delete_user_cb=lambda user: user is not bounded)


class _Extents:
    """The largest |w| between every output and every input channel of the layers, and the factors found so far."""

    def __init__(self, graph: GraphModule, chosen: list[Chain]) -> None:
        self._chains = chosen
        layers = {layer.node: layer for chain in chosen for layer in (chain.first, *(reader.layer for reader in chain.readers))}
        self._largest = {node: blocks(attribute(graph, layer.weight).double(), layer).abs().amax(3) for node, layer in layers.items()}
        self.factors = [torch.ones_like(self._outputs(chain.first.node)) for chain in chosen]
        self.is_read = [self._silence(chain) for chain in reversed(chosen)][::-1]  # a silenced channel does not read its own input
        self._is_alive = [(first := self._outputs(chain.first.node)) > _DEAD * first.max() for chain in chosen]

    def settle(self, max_sweeps: int) -> int:
        """Sweep over all chains until they change no more; returns the number of sweeps."""
        num_sweeps, change = 0, 2 * _TOLERANCE if self._chains else 0.0
        while change > _TOLERANCE and num_sweeps < max_sweeps:
            change = max(self._equalize(index) for index in range(len(self._chains)))
            num_sweeps += 1
        return num_sweeps

    def _equalize(self, index: int) -> float:
        chain = self._chains[index]
        first, second = self._outputs(chain.first.node), self._inputs(chain)
        factor = torch.where(self._is_alive[index] & self.is_read[index], (first / second).sqrt(), 1)
        self.factors[index] *= factor
        node = chain.first.node
        self._largest[node] = self._largest[node] / factor.view(*self._largest[node].shape[:2], 1)
        for reader in chain.readers:
            largest = self._largest[reader.layer.node]
            columns = factor.repeat_interleave(reader.block).view(len(largest), 1, -1)
            self._largest[reader.layer.node] = largest * columns
        return float((factor - 1).abs().max())

    def _silence(self, chain: Chain) -> Tensor:
        """[C]: which channels some layer reads; the weights of the others count as 0."""
        is_read = self._inputs(chain) > 0
        largest = self._largest[chain.first.node]
        self._largest[chain.first.node] = largest * is_read.view(*largest.shape[:2], 1)
        return is_read

    def _outputs(self, node: Node) -> Tensor:
        """[C]: of each output channel of a layer."""
        return self._largest[node].amax(2).flatten()

    def _inputs(self, chain: Chain) -> Tensor:
        """[C]: of each channel of the tensor between, in the layers that read it."""
        columns = [(self._largest[reader.layer.node].amax(1).flatten(), reader.block) for reader in chain.readers]
        return torch.stack([largest.view(-1, block).amax(1) for largest, block in columns]).amax(0)


def _scale(graph: GraphModule, chain: Chain, factor: Tensor, is_read: Tensor) -> None:
    """Divide the outputs of the first layer by ``factor`` [C], or make them 0, and multiply the inputs of its readers."""
    scale_outputs(graph, chain.first, is_read / factor)
    for reader in chain.readers:
        _scale_inputs(graph, reader.layer, factor.repeat_interleave(reader.block))


def _scale_inputs(graph: GraphModule, layer: WeightedLayer, factor: Tensor) -> None:
    set_parameter(graph, layer.weight, scale_channels(attribute(graph, layer.weight), layer, inputs=factor))
