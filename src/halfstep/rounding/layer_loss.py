"""The error of one layer on a minibatch and its gradient in the weight, in closed form.

    L(W̃) = 1 / (B P)  sum_n,p,o  (f(W̃ x̂ + b) - f(y))²        dL/dW̃ = 2 / (B P)  sum_n,p  (f(W̃ x̂ + b) - f(y)) f'(W̃ x̂ + b) x̂ᵀ

n: B samples. p: P output positions. o: output channels, summed and not averaged: the weight λ of a regularization is right for this sum.
x̂: what the layer receives. b: its bias. y: its output in the float network. f: the activation function behind it, a clip (ReLU, ReLU6,
...) or nothing. Nagel et al. 2020, equation (25); with x in place of x̂ and no f, equation (21). No deviation; sampled positions estimate
the mean over all of them without bias.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import replace
from typing import cast, final

import torch
from torch import Tensor
from torch.nn import functional as F

from halfstep.rounding.abstract import RoundingProblem
from halfstep.rounding.descent import Samples
from halfstep.rounding.operator import LinearOperator
from halfstep.rounding.winograd import Winograd, tiled

Limits = tuple[float, float]
_WINOGRAD_CHANNELS = 32  # with fewer, moving the transformed values costs what the multiplications save
_WINOGRAD_BYTES = 4 << 30  # of transformed inputs; larger ones are left as they are


class AbstractLayerLoss(ABC):
    """A subclass chooses which positions count, how the layer is computed, and how the weight is laid out for that.

    limits: the ends of the clip f; none where there is no f.
    """

    def __init__(self, problem: RoundingProblem, num_samples: int, limits: Limits | None) -> None:
        self.problem, self.num_samples, self.limits = problem, num_samples, limits

    @abstractmethod
    def laid_out(self, tensor: Tensor) -> Tensor:
        """A tensor that broadcasts against the weight, in the layout of `gradient`."""

    @abstractmethod
    def as_weight(self, tensor: Tensor) -> Tensor:
        """The inverse of `laid_out`."""

    @abstractmethod
    def gradient(self, weight: Tensor, chosen: Tensor) -> Tensor:
        """dL/dW̃ at ``weight``, on the samples with the indices ``chosen`` [B]."""

    def residual(self, output: Tensor, target: Tensor) -> Tensor:
        """(f(output) - target) f'(output) in the place of ``output``; ``target`` is overwritten.

        Where the clip f has a gradient, f(output) = output.
        """
        if self.limits is None:
            return output.sub_(target)
        torch.sub(output, target, out=target)
        found = torch.ops.aten.hardtanh_backward.grad_input(target, output, *self.limits, grad_input=output)
        return cast("Tensor", found)


def layer_loss(
    problem: RoundingProblem, generator: torch.Generator, *, is_asymmetric: bool, with_activation: bool, num_positions: int | None
) -> AbstractLayerLoss:
    """The loss of a problem with samples; ``num_positions`` of each sample are drawn from ``generator`` at every step, None takes all."""
    if problem.samples is None:
        raise ValueError("this rounding reads samples of the layer's inputs, and the problem has none")
    samples = problem.samples()
    inputs = samples.inputs if is_asymmetric else samples.float_inputs
    limits, targets = None, samples.outputs
    if with_activation and samples.activation is not None:
        targets = samples.activation(targets)
        ends = samples.activation(torch.tensor([-math.inf, math.inf], dtype=targets.dtype, device=targets.device))
        limits = (float(ends[0]), float(ends[1]))
    if num_positions is not None and num_positions < problem.operator.num_positions(inputs, problem.weight):
        return SampledPositions(problem, inputs, targets, limits, num_positions, generator)
    if _suits_winograd(problem, inputs):
        return TransformedSamples(problem, inputs, targets, limits)
    return WholeSamples(problem, inputs, targets, limits)


@final
class WholeSamples(AbstractLayerLoss):
    """Every output position counts; PyTorch's own convolution."""

    def __init__(self, problem: RoundingProblem, inputs: Tensor, targets: Tensor, limits: Limits | None) -> None:
        super().__init__(problem, len(inputs), limits)
        self._operator = problem.operator
        if any(self._operator.end_padding):
            inputs, self._operator = _padded(inputs, self._operator)
        self._inputs, self._targets = Samples(inputs), Samples(targets)
        self._num_positions = targets.numel() // (len(targets) * targets.shape[1 if self._operator.num_axes else -1])

    def laid_out(self, tensor: Tensor) -> Tensor:
        """Channels innermost in memory, as convolutions on the CPU want their weights."""
        memory_format = {4: torch.channels_last, 5: torch.channels_last_3d}.get(tensor.ndim, torch.contiguous_format)
        return tensor.expand(self.problem.weight.shape).contiguous(memory_format=memory_format)

    def as_weight(self, tensor: Tensor) -> Tensor:
        """As it is."""
        return tensor.contiguous()

    def gradient(self, weight: Tensor, chosen: Tensor) -> Tensor:
        """See above; in the weight's shape."""
        x, target = self._inputs.take(chosen), self._targets.take(chosen)
        residual = self.residual(self._operator(x, weight, self.problem.bias), target)
        return self._in_weight(x, weight, residual).mul_(2 / (len(chosen) * self._num_positions))

    def _in_weight(self, x: Tensor, weight: Tensor, residual: Tensor) -> Tensor:
        operator = self._operator
        if operator.num_axes == 0:
            return residual.flatten(0, -2).t() @ x.flatten(0, -2)
        extra = operator.output_padding or (0,) * operator.num_axes
        geometry = (operator.stride, operator.padding, operator.dilation, operator.is_transposed, extra, operator.groups)
        found = torch.ops.aten.convolution_backward(residual, x, weight, None, *geometry, [False, True, False])
        return cast("Tensor", found[1])


@final
class TransformedSamples(AbstractLayerLoss):
    """Every output position counts; 3x3 convolutions by Winograd's algorithm, on inputs transformed once instead of at every step."""

    def __init__(self, problem: RoundingProblem, inputs: Tensor, targets: Tensor, limits: Limits | None) -> None:
        super().__init__(problem, len(inputs), limits)
        padded, _ = _padded(inputs, problem.operator)
        self._convolution = Winograd(padded)
        self._targets = tiled(targets)  # [16, N, T O]
        self._num_positions = targets.shape[2] * targets.shape[3]
        self._batch = self._targets.new_empty(0)
        # In the tiles at the lower and the right border, what lies beyond the image.
        self._beyond = (-targets.shape[2] % 4, -targets.shape[3] % 4)
        self._num_tiles = (-(-targets.shape[2] // 4), -(-targets.shape[3] // 4))

    def laid_out(self, tensor: Tensor) -> Tensor:
        """[9, I, O]."""
        return tensor.expand(self.problem.weight.shape).permute(2, 3, 1, 0).flatten(0, 1).contiguous()

    def as_weight(self, tensor: Tensor) -> Tensor:
        """From [9, I, O] to [O, I, 3, 3]."""
        return tensor.view(3, 3, *tensor.shape[1:]).permute(3, 2, 0, 1).contiguous()

    def gradient(self, weight: Tensor, chosen: Tensor) -> Tensor:
        """See above; [9, I, O]."""
        if self._batch.numel() != 16 * len(chosen) * self._targets.shape[2]:
            self._batch = self._targets.new_empty(16, len(chosen), self._targets.shape[2])
        target = torch.index_select(self._targets, 1, chosen, out=self._batch)
        output = self._convolution.forward(weight, self.problem.bias, chosen)
        residual = self.residual(output.view(target.shape), target)
        places = residual.view(4, 4, len(chosen), *self._num_tiles, -1)
        down, right = self._beyond
        if down:
            places[4 - down :, :, :, -1] = 0
        if right:
            places[:, 4 - right :, :, :, -1] = 0
        return self._convolution.backward(residual).mul_(2 / (len(chosen) * self._num_positions))


@final
class SampledPositions(AbstractLayerLoss):
    """A few output positions of each sample count, others at every step."""

    def __init__(
        self,
        problem: RoundingProblem,
        inputs: Tensor,
        targets: Tensor,
        limits: Limits | None,
        num_sampled: int,
        generator: torch.Generator,
    ) -> None:
        super().__init__(problem, len(inputs), limits)
        self._num_sampled, self._generator, self._groups = num_sampled, generator, problem.operator.groups
        self._places = _places(problem, inputs)  # [P, K]
        values = _channels_last(inputs, problem.operator).flatten(1, -2)
        values = torch.cat([values.new_zeros(len(values), 1, values.shape[2]), values], 1)  # place 0 is what lies beyond the border
        self._num_places, self._values = values.shape[1], values.flatten(0, 1)
        channels = _channels_last(targets, problem.operator).flatten(1, -2)
        self._num_positions, self._targets = channels.shape[1], channels.flatten(0, 1)
        self._bias = None if problem.bias is None else problem.bias.view(self._groups, 1, -1)

    def laid_out(self, tensor: Tensor) -> Tensor:
        """[G, R, d]: the rows of the layer, with the place in the kernel before the input channel."""
        rows = self.problem.rows(tensor)
        return rows.reshape(*rows.shape[:2], -1, self._places.shape[1]).transpose(2, 3).flatten(2)

    def as_weight(self, tensor: Tensor) -> Tensor:
        """From rows to the weight's shape."""
        return self.problem.from_rows(tensor.view(*tensor.shape[:2], self._places.shape[1], -1).transpose(2, 3).flatten(2))

    def gradient(self, weight: Tensor, chosen: Tensor) -> Tensor:
        """See above; [G, R, d]."""
        shape = (len(chosen), self._num_sampled)
        positions = torch.randint(self._num_positions, shape, generator=self._generator, device=self._generator.device)
        positions = positions.to(weight.device, non_blocking=True)
        target = self._targets.index_select(0, (positions + chosen[:, None] * self._num_positions).flatten())
        target = target.view(-1, *weight.shape[:2]).transpose(0, 1)  # [G, B S, R]
        patches = self._patches(positions, chosen)
        output = patches @ weight.transpose(1, 2)
        residual = self.residual(output if self._bias is None else output.add_(self._bias), target)
        return (residual.transpose(1, 2) @ patches).mul_(2 / positions.numel())

    def _patches(self, positions: Tensor, chosen: Tensor) -> Tensor:
        """What the ``positions`` [B, S] of the ``chosen`` samples see: [G, B S, d]."""
        places = self._places.index_select(0, positions.flatten()).view(*positions.shape, -1) + (chosen * self._num_places)[:, None, None]
        values = self._values.index_select(0, places.flatten())  # [B S K, I]
        if self._groups == 1:
            return values.view(1, positions.numel(), -1)
        return values.view(positions.numel(), places.shape[2], self._groups, -1).permute(2, 0, 1, 3).flatten(2)


def _places(problem: RoundingProblem, inputs: Tensor) -> Tensor:
    """Which of a sample's places, counted from 1, each output position sees through each place of the kernel; 0 beyond the border: [P, K].

    Found by showing the layer an image whose values are the numbers of its places.
    """
    operator, weight = replace(problem.operator, groups=1), problem.weight
    space = _channels_last(inputs, operator).shape[1:-1]
    numbers = torch.arange(1, math.prod(space) + 1, dtype=torch.float64, device=inputs.device)
    image = numbers.view(1, *space, 1) if operator.num_axes == 0 else numbers.view(1, 1, *space)
    kernel = weight[:1, :1]
    positions = torch.arange(operator.num_positions(image, kernel), device=inputs.device)[None]
    return operator.patches(image, kernel, positions)[0].long()


def _channels_last(tensor: Tensor, operator: LinearOperator) -> Tensor:
    """[N, C, *space] as [N, *space, C]; a linear layer's [N, C] as [N, 1, C]."""
    if operator.num_axes:
        return tensor.movedim(1, -1)
    return tensor[:, None] if tensor.ndim == 2 else tensor


def _padded(inputs: Tensor, operator: LinearOperator) -> tuple[Tensor, LinearOperator]:
    """The inputs with their zeros around them, and the operator that adds none."""
    ends = operator.end_padding or (0,) * operator.num_axes
    sides = [side for before, extra in zip(reversed(operator.padding), reversed(ends), strict=True) for side in (before, before + extra)]
    padded = F.pad(inputs, sides) if any(sides) else inputs
    return padded, replace(operator, padding=(0,) * operator.num_axes, end_padding=())


def _suits_winograd(problem: RoundingProblem, inputs: Tensor) -> bool:
    operator, shape = problem.operator, problem.weight.shape
    is_plain = operator.stride == (1, 1) and operator.dilation == (1, 1) and operator.groups == 1 and not operator.is_transposed
    is_large = inputs.nbytes * 9 / 4 > _WINOGRAD_BYTES
    return is_plain and shape[2:] == (3, 3) and min(shape[:2]) >= _WINOGRAD_CHANNELS and not is_large and inputs.device.type == "cpu"
