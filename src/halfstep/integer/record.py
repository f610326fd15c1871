"""What lowering a network did to it, as plain values."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class OperatorRecord:
    """One operator of an integer program that ends in a rounding.

    rescale_error: the largest relative distance of its integer multipliers from the real scales they stand for. num_codes, num_differing,
    max_difference: its output against the simulation's, computed from the very same input codes.
    """

    name: str  # the user's name of the layer
    kind: str  # "conv", "add" ...
    rescale_error: float
    num_codes: int
    num_differing: int
    max_difference: int  # in codes


@dataclass(frozen=True)
class ProgramRecord:
    """An integer program against the simulation, on the calibration inputs that were kept.

    operators: each from the codes the simulation computed, so that it answers for itself. max_output_difference (relative to the largest
    output) and top1_agreement (0..1) compare the whole networks, end to end.
    """

    mode: str
    num_operators: int
    weight_bytes: int
    operators: tuple[OperatorRecord, ...]
    max_output_difference: float
    top1_agreement: float
    num_samples: int
    notes: tuple[str, ...] = ()

    @property
    def num_codes(self) -> int:
        """How many codes were compared."""
        return sum(operator.num_codes for operator in self.operators)

    @property
    def num_differing(self) -> int:
        """How many of them differ."""
        return sum(operator.num_differing for operator in self.operators)

    @property
    def max_difference(self) -> int:
        """The largest difference of any operator, in codes."""
        return max((operator.max_difference for operator in self.operators), default=0)
