"""What training asks of a quantizer: a start, parameters with gradients, and a way back to a fixed grid.

    positive = unit exp(logarithm)        d L / d logarithm  :=  (d L / d positive) / positive

Scales and clipping points must stay positive. The parameter is therefore the logarithm of what they are in units of their start, and its
gradient is that of the number itself divided by the number: a step of gradient descent then moves the number, to first order, as far as the
same step on the number itself would, and no step can make it 0 or negative. (The true gradient is positive^2 times this one.)
"""

from __future__ import annotations

import math
import typing
from abc import abstractmethod
from typing import Any, ClassVar, final

import pydantic
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from halfstep.errors import CalibrationError, RecipeError
from halfstep.grid import Grid
from halfstep.quantizers.abstract import QUANTIZERS, AbstractQuantizer, quantizers
from halfstep.registry import Method, Spec, parse_spec


class AbstractLearnedQuantizer(AbstractQuantizer):
    """A quantizer that training moves, on a weight's edge (``is_weight``) or an activation's.

    Options are annotated attributes of the class with a default: what a recipe may write, and keywords of the constructor. After training
    `quantize` of the tensor on its edge gives the codes, scale and zero point that a fixed grid takes over; one whose levels are no such
    grid says so in ``is_uniform``. keeps_values: whether a value on its grid, taken for a weight, is quantized to itself. way_out: what to
    do where one that is not uniform has no form.
    """

    keeps_values: ClassVar[bool] = True
    way_out: ClassVar[str] = "Train with another quantizer, such as lsq"

    def __init__(
        self, grid: Grid, num_channels: int | None = None, num_groups: int | None = None, is_weight: bool = False, **options: Any
    ) -> None:
        super().__init__(grid)
        if (grid.channel_axis is None) != (num_channels is None) or (grid.group_size is None) != (num_groups is None):
            raise ValueError("num_channels goes with a grid that has a channel axis, num_groups with one that has groups")
        self.num_channels, self.num_groups = num_channels, num_groups
        self.is_weight = is_weight
        known = self.options()
        for name, value in options.items():
            if name not in known:
                raise TypeError(f"{self.name} has no option '{name}': {', '.join(known) or 'none at all'}")
            setattr(self, name, value)
        self.make_parameters()

    @abstractmethod
    def make_parameters(self) -> None:
        """Parameters and buffers, of the shape that `shape` says, without values yet; options have theirs."""

    @property
    def is_uniform(self) -> bool:
        """Whether its levels are a grid."""
        return True

    def scaled(self, factor: Tensor, axis: int) -> AbstractLearnedQuantizer:
        """For a weight ``factor`` [C] times as large along ``axis``; asked of weights' quantizers that are not uniform."""
        raise NotImplementedError(f"{self.name} has levels that are no grid, and does not say how to scale them")

    @abstractmethod
    def set(self, scale: Tensor, zero_point: Tensor) -> None:
        """Start from a calibrated grid, of the shape that `shape` says, and switch the quantizer on."""

    @abstractmethod
    def start(self, x: Tensor) -> None:
        """Start as the paper does, from the values on the edge: a weight, or the first batch of an activation. `set` comes before it."""

    def expect(self, shape: tuple[int | None, ...]) -> None:
        """Told before a training what shape the tensor on its edge has, None for free sizes. Most methods do not care."""

    def follow(self, done: float, index: int, count: int) -> None:
        """Told before every step of a training run: the share of it that is done, and that this is quantizer ``index`` of ``count``, in
        the order of computation. Most methods do not care.
        """

    @classmethod
    def options(cls) -> dict[str, tuple[Any, Any]]:
        """(type, default) of what a recipe may write behind the method's name."""
        hints = typing.get_type_hints(cls, include_extras=True)
        below = cls.__mro__[: cls.__mro__.index(AbstractLearnedQuantizer)]
        names = [name for kind in below for name in vars(kind).get("__annotations__", {}) if hasattr(cls, name)]
        return {name: (hints[name], getattr(cls, name)) for name in names if typing.get_origin(hints[name]) is not ClassVar}

    def configuration(self) -> dict[str, Any]:
        """Everything the constructor takes."""
        own = {name: getattr(self, name) for name in ("num_channels", "num_groups", "is_weight", *self.options())}
        return {**super().configuration(), **own}

    def shape(self) -> tuple[int, ...]:
        """Of a parameter: [], [C] or [C, num_groups]."""
        return tuple(size for size in (self.num_channels, self.num_groups) if size is not None)

    def num_features(self, x: Tensor) -> float:
        """How many values one scale stands for: those of a weight, or those of one sample of an activation."""
        total = x.numel() if self.is_weight else x.numel() / max(len(x), 1) if x.ndim else 1.0
        return max(total / math.prod(self.shape()), 1.0)


def rows(x: Tensor, grid: Grid) -> Tensor:
    """``x`` as [..., n] with the values that share a scale in a row: [n], [C, n] or [C, num_groups, n], the last group filled up with
    NaN.
    """
    if grid.channel_axis is None:
        return x.reshape(-1)
    if grid.group_size is None:
        return x.movedim(grid.channel_axis, 0).flatten(1)
    return F.pad(x, (0, -x.shape[1] % grid.group_size), value=torch.nan).view(len(x), -1, grid.group_size)


def variance(values: Tensor) -> Tensor:
    """Of each row that `rows` made."""
    return (values - values.nanmean(-1, keepdim=True)).square().nanmean(-1)


@final
class Positive(nn.Module):
    """A positive number, or one a channel, that gradient descent moves; see the top of this file. Without a value until it is set."""

    unit: Tensor

    def __init__(self, shape: tuple[int, ...]) -> None:
        super().__init__()
        self.logarithm = nn.Parameter(torch.zeros(shape))
        self.register_buffer("unit", torch.full(shape, torch.nan))

    @property
    def is_set(self) -> bool:
        """Whether it has a value."""
        return not bool(torch.isnan(self.unit).any())

    @property
    def value(self) -> Tensor:
        """The number, cut off from gradients: they are the business of the function that uses it."""
        return self.unit * self.logarithm.detach().exp()

    def with_gradient(self) -> Tensor:
        """The number, with the gradient at the top of this file: for methods that leave slopes to autograd."""
        value = self.value
        moved = self.logarithm / value
        return value + (moved - moved.detach())

    def set(self, value: Tensor) -> None:
        """Start here; `CalibrationError` where it is not positive and finite."""
        value = value.detach().to(self.unit)
        if not bool((value > 0).all() and torch.isfinite(value).all()):
            raise CalibrationError(f"A scale is positive and finite, not {value.flatten().tolist()[:8]}.")
        with torch.no_grad():
            self.unit.copy_(value)
            self.logarithm.zero_()


def learned_kind(spec: Spec) -> tuple[type[AbstractLearnedQuantizer], dict[str, Any]]:
    """The class that a recipe names and its options, checked; `RecipeError` says what does not fit."""
    name, given = parse_spec(spec, "quantizer")
    kind = QUANTIZERS[name]
    if not issubclass(kind, AbstractLearnedQuantizer):
        known = ", ".join(name for name in QUANTIZERS if issubclass(QUANTIZERS[name], AbstractLearnedQuantizer))
        raise RecipeError(f"'{name}' has nothing that training could move. Known: {known}.")
    fields: dict[str, Any] = kind.options()
    options = pydantic.create_model(kind.__name__, __base__=Method, **fields)
    options.name = name
    return kind, options.from_options(given).model_dump()


def has_levels_of_its_own(model: nn.Module) -> bool:
    """Whether a quantizer of ``model`` stayed in it after training, because its levels are no grid."""
    return any(isinstance(quantizer, AbstractLearnedQuantizer) for _, quantizer in quantizers(model))


def full_spec(spec: Spec) -> Spec:
    """``spec`` with every option written out."""
    kind, options = learned_kind(spec)
    return {kind.name: options} if options else kind.name
