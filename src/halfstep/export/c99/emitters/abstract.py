"""What writes the C of one kind of operator."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from halfstep.export.c99.layout import Order, Place, row_major
from halfstep.export.c99.module import Module
from halfstep.registry import Registry


@dataclass(frozen=True)
class Step:
    """One operator at work. inputs, output: places. operator: None where codes are only brought into another order."""

    kind: str
    operator: Any
    inputs: tuple[Place, ...]
    output: Place

    @property
    def name(self) -> str:
        """The user's name of the layer."""
        return self.operator.name if self.operator is not None else self.output.value.name


@dataclass(frozen=True)
class Pointers:
    """C expressions of addresses. in_place: the input whose memory the output takes over."""

    inputs: tuple[str, ...]
    output: str
    scratch: str
    in_place: int | None = None


class AbstractEmitter(ABC):
    """One instance a kind."""

    name: ClassVar[str] = ""

    @abstractmethod
    def orders(
        self, operator: Any, given: Sequence[Place], is_free: Sequence[bool], shape: tuple[int, ...]
    ) -> tuple[tuple[Order, ...], Order]:
        """In which orders it wants its inputs and leaves its output, of ``shape``.

        given: where the inputs lie now. is_free: true of a constant, which lies as one likes.
        """

    def is_alias(self, step: Step) -> bool:
        """Whether the output has the bytes of the first input."""
        return False

    def in_place(self, step: Step) -> tuple[int, ...]:
        """Inputs in whose memory the output may be written, best first."""
        return ()

    def scratch_bytes(self, step: Step) -> int:
        """Memory it needs beside its inputs and its output while it runs."""
        return 0

    @abstractmethod
    def emit(self, step: Step, values: Mapping[str, Any], module: Module, at: Pointers) -> list[str]:
        """The statements that compute the output; functions and constants go to ``module``."""


EMITTERS: Registry[AbstractEmitter] = Registry("C emitter")


def common_order(given: Sequence[Place], is_free: Sequence[bool], num_axes: int) -> Order:
    """The order of the largest input with so many axes, else row-major."""
    known = [place for place, free in zip(given, is_free, strict=True) if not free and len(place.order) == num_axes]
    return max(known, key=lambda place: place.value.size).order if known else row_major(num_axes)


def kept_orders(given: Sequence[Place], is_free: Sequence[bool], order: Order) -> tuple[Order, ...]:
    """Inputs as they lie; constants in ``order``, where they have as many axes."""
    return tuple(order if free and len(place.order) == len(order) else place.order for place, free in zip(given, is_free, strict=True))
