"""Mix the channels of linear streams by a matrix, so that rounding what they hold disturbs the outputs least.

    argmin over invertible A of   noise(A) = sum over tensors T   e_T(A)² tr(H_T (AᵀA)^-1) / (n_T - 1)²         W_p <- A W_p, b_p <- A b_p
                                                                                                                W_e <- W_e A^-1
    e_T(A) = (mean of |(A x)_i|^p over positions x and channels i)^(1/p), p = 8

T: the tensors of a stream (`graph/streams.py`: the residual stream of a stage of MobileNetV2), which the layers p write and the layers e
read. With n_T codes from -e to e, the rounding of A x is off by an even e / (n_T - 1) in every direction; counted in x that is A^-1 times
as much, and H_T (`graph/output_slopes.py`) says how strongly the outputs feel it. e stands for the range of a grid that clips the few
largest values, as grids of least squares do. The network computes what it computed, and costs what it cost.

`balance_channels` is the same with a diagonal A, and also scales what no matrix fits in. A matrix can do two things more. Trained networks
have positions that are tens of times larger than all others, along few directions (in the last stages of MobileNetV2 one in hundreds is):
these it turns until all channels share them. And it makes directions small that the outputs do not feel.

Ashkboos et al. 2024, "QuaRot: outlier-free 4-bit inference in rotated LLMs", turn the residual streams of transformers by random
rotations; Liu et al. 2024, "SpinQuant: LLM quantization with learned rotations", learn them by the network's loss; Sun et al. 2024,
"FlatQuant: flatness matters for LLM quantization", learn invertible matrices layer by layer. Deviations: convolutions; matrices are
invertible and yet cost nothing at run time, because only linear streams get one; the measure is the noise at the outputs, which takes one
backward pass a sample, and no labels. The rounding of weights is not counted.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

import torch
from pydantic import Field
from torch import Tensor
from torch.fx import GraphModule

from halfstep.graph.edit import finish
from halfstep.graph.output_slopes import ChannelMoments, channel_moments
from halfstep.graph.streams import find_streams
from halfstep.steps.abstract import STEPS, AbstractStep, Context
from halfstep.steps.channel_ranges import first_inputs
from halfstep.steps.float_only import refuse_quantizers
from halfstep.steps.place_quantizers import rounding_grids

_RIDGE = 1e-3  # of the mean slope: no direction is free, however few samples there are
_ROWS = 32  # of each sample and tensor


@final
@STEPS.register("mix_channels")
class MixChannels(AbstractStep):
    """samples: calibration inputs for values and slopes.

    iterations, learning_rate: of the search for the matrices, which needs no data. The rate is that of a matrix of one channel, and falls
    with the square root of their number.
    """

    samples: int = Field(default=128, ge=1)
    iterations: int = Field(default=150, ge=1)
    learning_rate: float = Field(default=0.06, gt=0)

    def apply(self, graph: GraphModule, context: Context) -> GraphModule:
        """Change weights and biases; the graph itself stays."""
        refuse_quantizers(graph, self.name)
        streams = find_streams(graph)
        grids, _ = rounding_grids(graph, context.scheme, [node for stream in streams for node in stream.axes])
        weights = {node: (grid.num_levels - 1.0) ** -2 for node, grid in grids.items()}
        if not weights:
            context.notes.append("No channels were mixed: all of them meet a function, a grouped layer, an input or an output.")
            return graph
        moments = channel_moments(
            graph,
            {node: axis for stream in streams for node, axis in stream.axes.items() if node in weights},
            first_inputs(context, self.samples, self.name),
            _ROWS,
            context.generator_for(0),
        )
        if not moments:
            context.notes.append("No channels were mixed: the network's outputs have no slopes.")
        for index, stream in enumerate(streams):
            context.progress(self.name, index, len(streams))
            tensors = [MixtureNoise.of(moments[node], weights[node]) for node in stream.axes if node in moments]
            if tensors:
                found, before, after = quietest_matrix(tensors, self.iterations, self.learning_rate)
                stream.mix(graph, found)
                context.notes.append(
                    f"Mixed the {stream.size} channels that {stream.writers[0].name} writes: the noise that rounding them is expected to "
                    f"leave at the outputs fell to {100 * after / max(before, 1e-300):.0f} %."
                )
        return finish(graph)


@dataclass(frozen=True)
class MixtureNoise:
    """The noise of one tensor. rows [N, C]: of values x, scaled to a mean square of 1. slopes [C, C]: H, scaled to make up for it."""

    rows: Tensor
    slopes: Tensor

    @classmethod
    def of(cls, moments: ChannelMoments, weight: float) -> MixtureNoise:
        """Of what was seen of a tensor; weight: 1 / (n - 1)²."""
        square = moments.rows.double().square().mean().clamp(min=1e-300)
        slopes = moments.slopes + _RIDGE * moments.slopes.diagonal().mean() * torch.eye(len(moments.slopes), dtype=torch.float64)
        return cls((moments.rows / square.sqrt()).float(), (weight * square * slopes).float())

    def __call__(self, matrix: Tensor, inverse: Tensor) -> Tensor:
        """With A and its inverse."""
        eighth = (self.rows @ matrix.T).square().square().square()
        return eighth.mean().sqrt().sqrt() * ((self.slopes @ inverse) * inverse).sum()


def quietest_matrix(tensors: Sequence[MixtureNoise], num_iterations: int, rate: float) -> tuple[Tensor, float, float]:
    """(A [C, C] float64, the noise without it, the noise with it).

    The best of what Adam comes by, from the identity on, its rate falling to 0.
    """
    identity = torch.eye(len(tensors[0].slopes))
    change = torch.zeros_like(identity, requires_grad=True)
    optimizer = torch.optim.Adam([change], betas=(0.9, 0.99))
    best, losses = identity, []
    with torch.enable_grad():
        for iteration in range(num_iterations + 1):
            matrix = identity + change
            inverse = torch.linalg.inv_ex(matrix).inverse  # a step onto a singular matrix is a step that was not the best
            noise = torch.stack([tensor(matrix, inverse) for tensor in tensors]).sum()
            losses.append(float(noise.detach()))
            if losses[-1] <= min(losses):
                best = matrix.detach()
            if iteration == num_iterations or losses[-1] == 0:
                break
            optimizer.param_groups[0]["lr"] = rate * len(identity) ** -0.5 * (1 - iteration / num_iterations)
            (change.grad,) = torch.autograd.grad(noise.log(), [change])
            optimizer.step()
    return best.double(), losses[0], min(losses)
