"""A quantized ONNX graph as the rules see it: each operator with the grids before and behind it.

    x -> QuantizeLinear -> DequantizeLinear -> operator -> (Relu, Clip ...) -> QuantizeLinear -> ...

A grid belongs to an operator's input where a DequantizeLinear stands before it, and to its output where a QuantizeLinear is all that
reads it. Operators that only move values (`MOVING`) may stand between: runtimes push Q and DQ through them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, final

import numpy as np

Array = np.ndarray[Any, Any]

HEAVY = (
    "Conv", "ConvTranspose", "Gemm", "MatMul", "FusedConv", "FusedGemm", "FusedMatMul", "QLinearConv", "QLinearMatMul", "ConvInteger",
    "MatMulInteger", "QGemm", "MatMulIntegerToFloat", "DynamicQuantizeMatMul", "MatMulNBits", "Attention", "QAttention",
)  # fmt: skip
"""Operators that hold nearly all of a network's arithmetic."""

LAYERS = ("Conv", "ConvTranspose", "Gemm", "MatMul")
"""Convolutions and matrix products in their float form, whose grids stand around them."""

MOVING = ("Reshape", "Flatten", "Transpose", "Squeeze", "Unsqueeze", "MaxPool", "Slice", "Identity")
"""Operators that move values of one grid and that ONNX Runtime pushes Q and DQ through."""

ON_CODES = (
    *MOVING, "Concat", "Split", "Gather", "Expand", "Tile", "Pad", "Clip", "Resize", "DepthToSpace", "SpaceToDepth", "GatherElements",
    "GatherND", "Where", "NhwcMaxPool",
)  # fmt: skip
"""Operators that compute with codes where codes are what they read."""

FUSED = ("Relu", "Clip", "Add", "Sigmoid", "HardSigmoid", "HardSwish", "LeakyRelu", "Tanh", "Elu", "Gelu", "PRelu", "Softplus", "Mish")
"""Functions that runtimes compute on the accumulator of the layer before them."""

CODE_TYPES = ("uint8", "int8", "uint16", "int16", "uint4", "int4", "uint2", "int2")


@final
@dataclass(frozen=True)
class Codes:
    """Integers that stand for a tensor. type: "uint8", "int4" ... zero_point, scale: None where the file computes them.

    form, of constants: "stored" codes; "cast" from a narrower type; "rounded" by a QuantizeLinear from stored floats, "requantized" from
    computed ones; "computed" in some other way. num_readers: how many operators read the tensor behind its DequantizeLinear nodes.
    """

    type: str
    zero_point: Array | None = None
    scale: Array | None = None
    form: str = "stored"
    num_readers: int = 1

    @property
    def is_symmetric(self) -> bool:
        """Whether the zero point is known to be 0."""
        return self.zero_point is not None and not self.zero_point.any()

    @property
    def lowest(self) -> float:
        """The smallest real number on the grid; -inf where the file does not say."""
        return self._real(0)

    @property
    def highest(self) -> float:
        """The largest real number on the grid; inf where the file does not say."""
        return self._real(1)

    def _real(self, end: int) -> float:
        bits = int(self.type.lstrip("uint"))
        code = ((1 << bits) - 1) * end if self.type.startswith("u") else ((1 << bits - 1) - 1 if end else -(1 << bits - 1))
        if self.zero_point is None or self.scale is None:
            return np.inf if end else -np.inf
        reals = (code - self.zero_point.astype(np.float64)) * self.scale
        return float(reals.max() if end else reals.min())


@final
@dataclass(frozen=True)
class Operand:
    """A tensor that an operator computes with. codes: its grid, None where it is a float. is_constant: it does not depend on the input."""

    name: str
    codes: Codes | None
    is_constant: bool


@final
@dataclass(frozen=True)
class Operator:
    """One operator. name: the file's, or one made of its type and place.

    index: its place in the file. operands: its inputs that hold values (not shapes or axes), missing ones left out. has_bias: a Conv or
    Gemm with a third input. works_on_codes: what it reads are codes themselves. result: the grid behind it. between: the operator between
    it and that grid, or the empty string. is_absorbed: that one, or this one where none stands between, is a clip that the
    saturation of the grid repeats. mode: its attribute ``mode``. follows_layer: it reads what a convolution or product has just computed,
    possibly behind other functions of one number.
    """

    index: int
    name: str
    op_type: str
    domain: str
    operands: tuple[Operand, ...]
    result: Codes | None
    works_on_codes: bool = False
    between: str = ""
    is_absorbed: bool = False
    mode: str = ""
    follows_layer: bool = False

    @property
    def is_heavy(self) -> bool:
        """Whether it holds a good part of the network's arithmetic."""
        return self.op_type in HEAVY

    @property
    def input(self) -> Codes | None:
        """The grid of its first operand."""
        return self.operands[0].codes if self.operands else None

    @property
    def weight(self) -> Operand | None:
        """The second operand of a layer, if it is a constant."""
        has_weight = self.op_type in ("Conv", "ConvTranspose", "Gemm", "MatMul") and len(self.operands) > 1
        return self.operands[1] if has_weight and self.operands[1].is_constant else None

    @property
    def bias(self) -> Operand | None:
        """The third operand of a layer."""
        return self.operands[2] if self.op_type in ("Conv", "ConvTranspose", "Gemm") and len(self.operands) > 2 else None

    @property
    def activations(self) -> tuple[Operand, ...]:
        """The operands that depend on the input."""
        return tuple(operand for operand in self.operands if not operand.is_constant)

    @property
    def grids(self) -> tuple[Codes, ...]:
        """Every grid it touches: of its operands (not the bias) and of its result."""
        operands = [operand for operand in self.operands if operand is not self.bias]
        return tuple(codes for codes in (*(operand.codes for operand in operands), self.result) if codes is not None)
