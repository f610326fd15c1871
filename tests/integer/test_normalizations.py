"""Softmax and the norms in integers against the functions they stand for: how far a code is off, at any width, scale and length."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from halfstep.grid import Grid
from halfstep.integer import Value
from halfstep.integer.lower.normalization import norm_fields, softmax_fields
from halfstep.integer.operators import LayerNorm, Softmax
from halfstep.integer.operators.softmax import HIDDEN, coarse_table, fine_table

POWER_ERROR = 2.0**-16  # of a power of two: half of 2^-16 octaves, log 2 times, and less than 2^-28 of the tables
CODE_ERROR = 2.0**-15  # of a probability: the power's and that of the sum, each at most so much of it
NORM_ERROR = 2.0**-16  # of a normalized entry: half of its last bit, and less than 2^-28 of the root


def scores(bits: int, length: int, seed: int) -> Tensor:
    """Codes [40, 2, length], some of them at the ends, some near each other."""
    generator, grid = torch.Generator().manual_seed(seed), Grid(bits, True)
    codes = torch.randint(grid.minimum, grid.maximum + 1, (40, 2, length), generator=generator, dtype=torch.int32)
    codes[10:20] //= 8
    codes[20] = grid.minimum
    codes[21, :, 0] = grid.maximum
    return codes


def test_powers_of_two() -> None:
    """Every fraction of an octave, in units of 2^-16."""
    x = torch.arange(65536)
    powers = (coarse_table()[x >> 8] * fine_table()[x & 255]) >> 30
    assert float((powers.double() / 2.0**30 / torch.exp2(-x.double() / 65536) - 1).abs().max()) < 2.0**-28


@given(
    bits=st.sampled_from([4, 8, 12, 16]), out=st.sampled_from([8, 10, 16]), reach=st.floats(0.01, 200), length=st.integers(1, 300),
    seed=st.integers(0, 1000),
)  # fmt: skip
@settings(deadline=None, max_examples=60)
def test_softmax_is_off_by_half_a_step(bits: int, out: int, reach: float, length: int, seed: int) -> None:
    x = Value("x", (2, length), Grid(bits, True), reach / 2**bits)
    y = Value("y", (2, length), Grid(out, False), 2.0**-out)
    operator = Softmax("softmax", ("x",), "y", 1, *softmax_fields(x.scale, y.scale, 0, "fixed_point_32"))
    operator.check({"x": x, "y": y})
    codes = scores(bits, length, seed)
    real = torch.softmax(codes.double() * x.scale, -1) / y.scale
    made = operator.run([codes], {"x": x, "y": y})
    assert float((made - real.clamp(max=y.grid.maximum)).abs().max()) <= 0.5 + CODE_ERROR / y.scale


def test_masks_biases_and_rows_hidden_altogether() -> None:
    x, y = Value("x", (3, 8), Grid(8, True), 0.05), Value("y", (3, 8), Grid(16, False), 2.0**-16)
    keep = Value("keep", (1, 8), Grid(2, False), 1.0)
    bias = torch.randn(3, 8, generator=torch.Generator().manual_seed(0)).double()
    hidden = torch.zeros(3, 8, dtype=torch.bool)
    hidden[0, 2:4] = hidden[2] = True
    guard = 8
    stored = torch.where(hidden, HIDDEN, torch.round(bias / x.scale * 2**guard).long())
    operator = Softmax("softmax", ("x", "keep"), "y", 1, *softmax_fields(x.scale, y.scale, guard, "fixed_point_32"), stored)
    values = {"x": x, "y": y, "keep": keep}
    operator.check(values)
    codes = torch.randint(-128, 128, (20, 3, 8), dtype=torch.int32, generator=torch.Generator().manual_seed(1))
    seen = torch.randint(0, 2, (20, 1, 8), dtype=torch.int32, generator=torch.Generator().manual_seed(2)) * 3
    seen[..., 0], seen[0] = 1, 0
    made = operator.run([codes, seen], values).double() * y.scale
    lost = hidden | (seen == 0)
    real = (codes.double() * x.scale + bias).masked_fill(lost, -1e300).softmax(-1)
    # The bias is rounded to 2^-9 of a score's step, a factor of 1 + 2^-9 0.05.
    assert float((made - real).abs().max()) <= y.scale + CODE_ERROR + 2.0**-9 * x.scale
    assert torch.equal(made[:, 2], torch.full((20, 8), 0.125).double()) and torch.equal(made[0], torch.full((3, 8), 0.125).double())
    assert bool((made[1:, :2][lost[1:, :2]] == 0).all())


@pytest.mark.parametrize("is_centred", [True, False])
@given(
    bits=st.sampled_from([4, 8, 12, 16]), length=st.integers(2, 900), scale=st.floats(1e-5, 10),
    epsilon=st.sampled_from([1e-12, 1e-6, 1e-5, 0.1]), step=st.floats(1e-4, 0.1), seed=st.integers(0, 1000),
)  # fmt: skip
@settings(deadline=None, max_examples=60)
def test_norms_are_off_by_half_a_step(
    is_centred: bool, bits: int, length: int, scale: float, epsilon: float, step: float, seed: int
) -> None:
    x, y = Value("x", (2, length), Grid(bits, True), scale), Value("y", (2, length), Grid(16, True), step)
    generator = torch.Generator().manual_seed(seed)
    weight, bias = (torch.randn(length, generator=generator).double() for _ in range(2))
    fields = norm_fields(x, y.scale, weight, bias, (2, epsilon, is_centred))
    operator = LayerNorm("norm", ("x",), "y", **fields, inner=1, low=y.grid.minimum, high=y.grid.maximum)
    operator.check({"x": x, "y": y})
    codes = scores(bits, length, seed)
    made = operator.run([codes], {"x": x, "y": y})
    real = codes.double() * scale
    if is_centred:
        real = F.layer_norm(real, (length,), weight, bias, epsilon)
    else:
        real = F.rms_norm(real, (length,), weight, epsilon) + bias
    wanted = (real / y.scale).clamp(y.grid.minimum, y.grid.maximum)
    # Of the weight and the bias 30 bits are kept, those of the largest.
    rest = 2.0**-29 * (math.sqrt(length) * float(weight.abs().max()) + float(bias.abs().max())) * 2
    # Epsilon is rounded to a whole number, next to a variance of 4^guard or more, or of 0.
    assert float((made - wanted).abs().max()) <= 0.5 + (NORM_ERROR * float(weight.abs().max()) + rest) / y.scale + 2e-3
