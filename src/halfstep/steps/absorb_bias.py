"""Bias absorption: move the part of a bias that a ReLU always lets through into the layers behind it.

    c = max(0, beta - 3 gamma)        b1 <- b1 - c        b2 <- b2 + W2 c

beta, gamma: mean and standard deviation of the first layer's output, one of each a channel, as its folded batch norm knew them. b1: its
bias. W2, b2: weight and bias of the layer that reads it; W2 c is summed over the places of the kernel. Of a normal output, 99.87 % lies
above beta - 3 gamma, where ReLU(x) - c = ReLU(x - c). Equalization can make b1 large; this makes the range of the activations small again.
Nagel et al. 2019, "Data-free quantization through weight equalization and bias correction", section 4.1.3, equations 12 to 16.

The float function changes a little: for the 0.13 % below c, and, where a layer pads its input, at the border: zeros that are added there
have no c in them, while W2 c counts them. The paper absorbs into such layers all the same; here that is an option, off unless asked for.
Never absorbed: into a transposed convolution (its outputs meet different parts of the kernel), through a clip with an upper bound (ReLU6;
the step `equalize` can replace it), and where the tensor reaches anything but layers. A layer without a folded batch norm has no known
beta and gamma: it is left alone. Deviations: the option, and several layers that read one tensor all absorb.
"""

from __future__ import annotations

from typing import final

from torch import Tensor
from torch.fx import GraphModule

from halfstep.graph.borders import keeps_constants, layer_pads
from halfstep.graph.chains import Chain, Reader, chains
from halfstep.graph.channels import add_to_bias, response
from halfstep.graph.edit import attribute, finish
from halfstep.steps.abstract import STEPS, AbstractStep, Context
from halfstep.steps.float_only import refuse_quantizers

_NUM_DEVIATIONS = 3


@final
@STEPS.register("absorb_bias")
class AbsorbBias(AbstractStep):
    """padded: whether layers that pad their input with zeros absorb too, inexactly at the border, as in the paper."""

    padded: bool = False

    @property
    def is_exact(self) -> bool:
        """What lies below c changes, and padded borders."""
        return False

    def apply(self, graph: GraphModule, context: Context) -> GraphModule:
        """Change biases; layers that have none get one."""
        refuse_quantizers(graph, self.name)
        known: dict[str, tuple[Tensor, Tensor]] = graph.meta.get("batch_norms", {})
        if not known:
            context.notes.append("No bias was absorbed: no batch norm was folded, so that means and deviations of the outputs are unknown.")
        num_absorbed = 0
        for chain in chains(graph):
            if chain.first.name not in known or not self._may_absorb(graph, chain):
                continue
            mean, std = known[chain.first.name]
            shift = (mean - _NUM_DEVIATIONS * std).clamp(min=0)
            if bool(shift.any()):
                _absorb(graph, chain, shift)
                known[chain.first.name] = mean - shift, std
                num_absorbed += 1
        if known:
            context.notes.append(f"Absorbed a part of the biases of {num_absorbed} layers into the layers that read them.")
        return finish(graph)

    def _may_absorb(self, graph: GraphModule, chain: Chain) -> bool:
        if chain.obstacle is not None or chain.bounded or any(reader.layer.is_transposed for reader in chain.readers):
            return False
        return self.padded or not any(_adds_zeros(graph, reader) for reader in chain.readers)


def _adds_zeros(graph: GraphModule, reader: Reader) -> bool:
    """Whether zeros stand around the input of the layer, or something on the way puts them there."""
    return layer_pads(graph, reader.layer) or not all(keeps_constants(node) for node in reader.passed)


def _absorb(graph: GraphModule, chain: Chain, shift: Tensor) -> None:
    """Subtract ``shift`` [C] from the first layer's bias and add what it means to the biases of its readers."""
    add_to_bias(graph, chain.first, -shift)
    for reader in chain.readers:
        added = response(attribute(graph, reader.layer.weight), reader.layer, shift.repeat_interleave(reader.block))
        add_to_bias(graph, reader.layer, added)
