"""What a runtime asks of a quantized file: one value a runtime, one field a choice.

Steps and exporter read the fields and know no runtime by name. The reasons, with what was measured, are in docs/deployment.md.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal, final

from halfstep.errors import RecipeError, did_you_mean
from halfstep.grid import Grid

TargetName = Literal["onnxruntime", "openvino", "tensorrt", "generic"]
Nibbles = Literal["cast", "plain", "bytes"]
GroupForm = Literal["matmul_nbits", "matmul_nbits_int8", "qdq"]
"""How a weight with a scale for each group of inputs is written: see `export.groups`."""


@final
@dataclass(frozen=True)
class Target:
    """symmetric_weights: weights are signed with zero point 0, whatever the scheme says. symmetric_activations: activations, too.

    stores_unsigned: signed activations are stored as uint8, 128 higher. gives_every_layer_a_grid: also layers whose output no integer
    operator reads. adds_accumulators: of two operands of an addition, a layer that nothing else reads stays in float. joins_concat: what
    goes into a concatenation, and nowhere else, has the grid of the concatenation. nibbles: weights of up to 4 bits are stored as int4 with
    a Cast to int8 ("cast"), as int4 ("plain") or as int8 ("bytes"). has_integer_bias: biases are int32 with a DequantizeLinear, otherwise
    floats. groups: how a weight with a scale for each group of inputs is written; such weights keep their zero points. works_on_codes:
    clips, paddings and rows of stored tables may stand between Q and DQ.
    """

    name: TargetName
    symmetric_weights: bool = False
    symmetric_activations: bool = False
    stores_unsigned: bool = False
    gives_every_layer_a_grid: bool = True
    adds_accumulators: bool = False
    joins_concat: bool = False
    nibbles: Nibbles = "plain"
    has_integer_bias: bool = True
    groups: GroupForm = "qdq"
    works_on_codes: bool = True

    def weights(self, grid: Grid) -> Grid:
        """The weight grid in place of the scheme's."""
        return replace(grid, signed=True, symmetric=True) if self.symmetric_weights and grid.group_size is None else grid

    def activations(self, grid: Grid) -> Grid:
        """The activation grid in place of the scheme's."""
        return replace(grid, signed=True, symmetric=True) if self.symmetric_activations else grid

    def reads(self, grid: Grid) -> bool:
        """Whether an activation on ``grid`` has a form in a file for this runtime."""
        return not self.symmetric_activations or (grid.signed and grid.symmetric and grid.bits <= 8)


ONNXRUNTIME = Target("onnxruntime", stores_unsigned=True, joins_concat=True, nibbles="cast", groups="matmul_nbits")
OPENVINO = Target(
    "openvino",
    symmetric_weights=True,
    gives_every_layer_a_grid=False,
    adds_accumulators=True,
    joins_concat=True,
    nibbles="cast",
    works_on_codes=False,
)
TENSORRT = Target(
    "tensorrt",
    symmetric_weights=True,
    symmetric_activations=True,
    gives_every_layer_a_grid=False,
    adds_accumulators=True,
    joins_concat=True,
    nibbles="bytes",
    has_integer_bias=False,
    works_on_codes=False,
)
GENERIC = Target("generic")

TARGETS: dict[str, Target] = {target.name: target for target in (ONNXRUNTIME, OPENVINO, TENSORRT, GENERIC)}


def target_named(name: str) -> Target:
    """The target of that name; `RecipeError` with the closest one otherwise."""
    if name not in TARGETS:
        raise RecipeError(f"Unknown target '{name}'. {did_you_mean(name, TARGETS)}")
    return TARGETS[name]
