"""What a rounding is: which of the codes around a weight it takes, and what it may know to decide that.

    min over codes q of   E || W x - s (q - z) x̂ ||^2

W: the real weight. x: what the layer receives in the float network. x̂: what it receives behind the layers that are already quantized.
s, z: scale and zero point. The step `round` builds one `RoundingProblem` a layer; a method reads from it and returns codes.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor

from halfstep.grid import Grid, Quantized
from halfstep.registry import Method, Registry
from halfstep.rounding.operator import LinearOperator

_CONSTANT = 2.0**-16  # of E[x̂²]: float32 sums of hundreds of equal products miss it by 2^-17 or so; a variance of less is none


@dataclass(frozen=True)
class Moments:
    """Of the patches a layer receives, over samples and output positions; float64, one of each a group.

    gram: E[x̂ x̂ᵀ]. cross: E[x x̂ᵀ]. mean: E[x̂]. float_mean: E[x]. num_patches: how many were averaged. half: those of every second sample.
    """

    gram: Float[Tensor, "G d d"]
    cross: Float[Tensor, "G d d"]
    mean: Float[Tensor, "G d"]
    float_mean: Float[Tensor, "G d"]
    num_patches: int
    half: Moments | None = None

    def about_means(self) -> tuple[Float[Tensor, "G d d"], Float[Tensor, "G d d"]]:
        """E[x̂ x̂ᵀ] and E[(x - x̂) x̂ᵀ], all about their means; 0 where x̂ is constant up to the errors of its sums (`_CONSTANT`)."""
        gram = self.gram - self.mean[:, :, None] * self.mean[:, None, :]
        drift = self.cross - self.gram - (self.float_mean - self.mean)[:, :, None] * self.mean[:, None, :]
        varies = gram.diagonal(dim1=1, dim2=2) > _CONSTANT * self.gram.diagonal(dim1=1, dim2=2)
        return gram * (varies[:, :, None] & varies[:, None, :]), drift * varies[:, None, :]


@dataclass(frozen=True)
class LayerSamples:
    """What a layer receives and should return, one entry a calibration input.

    inputs: x̂ [N, I, ...]. float_inputs: x, of the same shape. outputs: W x + b of the float network [N, O, ...]. activation: the
    function f_a that follows the layer and nothing else (ReLU, ReLU6, clip); None where there is no such function.
    """

    inputs: Tensor
    float_inputs: Tensor
    outputs: Tensor
    activation: Callable[[Tensor], Tensor] | None = None


@dataclass(frozen=True)
class Quadratic:
    """The layer's error as a function of its rows alone: (v - target) gram (v - target)ᵀ + constant, v = s (q - z)."""

    gram: Float[Tensor, "G d d"]
    target: Float[Tensor, "G R d"]

    def error(self, rows: Float[Tensor, "G R d"]) -> Float[Tensor, "G R"]:
        """The error of each row, without the constant; float64."""
        difference = rows.double() - self.target
        return ((difference @ self.gram) * difference).sum(-1)


@dataclass(frozen=True)
class RoundingProblem:
    """One layer's weight, the grid it has to go to, and what is known about the data it meets.

    scale and zero_point have the shape [], [C] or [C, num_groups], as `Grid.along` takes them. bias: [O], of the float network. moments and
    samples are there for methods that ask for them. curvature: the second derivative of the task loss in this weight,
    [weight.numel()] squared. is_scale_fixed: whether the scale may not be refitted (an integer program will stand for it by a shift).
    keep: True where a weight of exactly 0 must stay 0 (a pruned network), of the weight's shape. row_offset: the layer's index of the
    first row here, where the rows are shared out over processes; gather: one number a row -> those of all rows of the layer.
    progress: to be called now and then with the share of the work that is done, 0 to 1.
    """

    weight: Tensor
    scale: Tensor
    zero_point: Tensor
    grid: Grid
    operator: LinearOperator = field(default_factory=LinearOperator)
    bias: Tensor | None = None
    moments: Moments | None = None
    samples: Callable[[], LayerSamples] | None = None
    curvature: Callable[[], Tensor] | None = None
    keep: Tensor | None = None
    is_scale_fixed: bool = False
    row_offset: int = 0
    gather: Callable[[Tensor], Tensor] = field(default=lambda values: values, repr=False)
    progress: Callable[[float], None] = field(default=lambda share: None, repr=False)

    def step(self) -> Tensor:
        """The scale, shaped to broadcast against the weight."""
        return self.grid.along(self.scale, self.weight.shape)

    def position(self) -> Tensor:
        """Where each weight lies between the codes, counted from the zero point: ``weight / scale``, not yet an integer."""
        return self.weight / self.step()

    def limits(self) -> tuple[Tensor, Tensor]:
        """The lowest and the highest integer of each weight, counted from the zero point; both 0 where a zero must stay."""
        zero_point = self.grid.along(self.zero_point, self.weight.shape)
        low, high = self.grid.minimum - zero_point, self.grid.maximum - zero_point
        if self.keep is None:
            return low, high
        return torch.where(self.keep, 0, low), torch.where(self.keep, 0, high)

    def codes(self, integers: Tensor, scale: Tensor | None = None) -> Quantized:
        """The given integers, counted from the zero point, clipped to their limits; with another ``scale`` if one was found."""
        low, high = self.limits()
        zero_point = self.grid.along(self.zero_point, self.weight.shape)
        inside = integers.clamp(low, high) + zero_point
        return Quantized(inside, self.scale if scale is None else scale, self.zero_point, self.grid)

    def rows(self, tensor: Tensor) -> Tensor:
        """Anything that broadcasts against the weight, as [G, R, d]."""
        return self.operator.rows(tensor.expand(self.weight.shape))

    def from_rows(self, rows: Tensor) -> Tensor:
        """[G, R, d] in the shape and type of the weight."""
        return self.operator.weight(rows, self.weight.shape).to(self.weight.dtype)

    def quadratic(self, asymmetric: bool = True, centred: bool = True, damping: float = 0.01) -> Quadratic:
        """The problem as a quadratic form in each row.

            gram = E[x̂ x̂ᵀ] + l I        target = W (E[x x̂ᵀ] + l I) gram^-1        l = damping * mean diagonal of E[x̂ x̂ᵀ]

        asymmetric: whether W x is the aim rather than W x̂ (then target = W). centred: whether moments are taken about the means, that is
        whether the bias is free; it then has to become b + W E[x] - s (q - z) E[x̂].
        """
        if self.moments is None:
            raise ValueError("this rounding reads moments but does not say so: set uses_moments = True")
        moments, weight = self.moments, self.operator.rows(self.weight).double()
        gram, drift = moments.about_means() if centred else (moments.gram, moments.cross - moments.gram)
        diagonal = gram.diagonal(dim1=1, dim2=2)
        ridge = (damping * diagonal.mean(1)).clamp(min=torch.finfo(torch.float32).tiny)
        gram = gram + torch.diag_embed(ridge[:, None].expand_as(diagonal))
        if not asymmetric or not bool(drift.any()):
            return Quadratic(gram, weight)
        return Quadratic(gram, weight + _solved(gram, weight @ drift))


def _solved(gram: Tensor, rows: Tensor) -> Tensor:
    """``rows gram^-1``, [G, R, d]; of a gram that has no inverse plus as small a share of its mean diagonal as it takes."""
    mean = gram.diagonal(dim1=1, dim2=2).mean(1)
    for ridge in (0.0, 1e-9, 1e-6, 1e-3, 1.0):
        ridges = (ridge * mean)[:, None].expand(gram.shape[:2])
        found, failed = torch.linalg.solve_ex(gram + torch.diag_embed(ridges), rows.transpose(1, 2))
        if not bool(failed.any()):
            break
    solved: Tensor = found.transpose(1, 2)
    return solved


class AbstractRounding(Method, ABC):
    """A way to choose codes for one layer is one subclass. It never runs the network; random choices come from ``generator`` alone.

    What it reads from the problem (the properties ``uses_...``) may depend on its options; a method where it does not writes
    ``uses_moments: ClassVar[bool] = True``.
    """

    @property
    def uses_moments(self) -> bool:
        """Whether it reads ``problem.moments`` or `RoundingProblem.quadratic`."""
        return False

    @property
    def uses_samples(self) -> bool:
        """Whether it reads ``problem.samples``."""
        return False

    @property
    def uses_curvature(self) -> bool:
        """Whether it reads ``problem.curvature``."""
        return False

    @property
    def has_independent_rows(self) -> bool:
        """Whether rows may be shared out over processes; what they have in common, such as one scale, goes through ``problem.gather``."""
        return False

    @property
    def frees_bias(self) -> bool:
        """Whether the codes are right only with the bias b + W E[x] - s (q - z) E[x̂], which the step then sets."""
        return False

    @abstractmethod
    def round(self, problem: RoundingProblem, generator: torch.Generator) -> Quantized:
        """Integers on ``problem.grid``, of the shape of ``problem.weight``; the scale may be another one of the same shape."""


ROUNDINGS: Registry[AbstractRounding] = Registry("rounding")
