"""Grids, codes on them, and the gradient through rounding."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
import torch
from beartype import beartype
from hypothesis import given, settings
from hypothesis import strategies as st
from jaxtyping import Float, jaxtyped

from halfstep.errors import RecipeError
from halfstep.grid import Grid, Quantized, quantize_affine, round_straight_through

UNIT = 2.0**-24  # the relative error of one rounding to float32
SMALLEST = 2.0**-126  # below it float32 loses digits, and with them that bound

GRIDS = st.builds(
    lambda bits, signed, symmetric, narrow: Grid(bits, signed, symmetric, None, narrow and signed),
    st.integers(2, 16),
    st.booleans(),
    st.booleans(),
    st.booleans(),
)
SCALES = st.builds(lambda mantissa, exponent: float(np.float32(mantissa * 2.0**exponent)), st.floats(1, 2), st.integers(-80, 80))


@jaxtyped(typechecker=beartype)
def reference(x: Float[np.ndarray, " n"], scale: np.float32, zero_point: int, grid: Grid) -> Float[np.ndarray, " n"]:
    """ONNX QuantizeLinear with Python's own integers and its own rounding (half to even), value by value."""
    steps = [round(float(quotient)) for quotient in x / scale]
    return np.array([min(max(step + zero_point, grid.minimum), grid.maximum) for step in steps], dtype=np.float64)


def quantize(x: torch.Tensor, scale: float, zero_point: int, grid: Grid) -> Quantized:
    return quantize_affine(x, torch.tensor(scale), torch.tensor(float(zero_point)), grid)


def zero_point_of(grid: Grid, share: float) -> int:
    """Some code of an asymmetric grid, 0 on a symmetric one."""
    return 0 if grid.symmetric else grid.minimum + round(share * (grid.maximum - grid.minimum))


@pytest.mark.parametrize("bits", range(2, 17))
def test_levels(bits: int) -> None:
    signed, narrow, unsigned = Grid(bits, True), Grid(bits, True, narrow=True), Grid(bits, False)
    assert (signed.minimum, signed.maximum, signed.num_levels) == (-(2**bits) // 2, 2**bits // 2 - 1, 2**bits)
    assert (narrow.minimum, narrow.maximum, narrow.num_levels) == (-signed.maximum, signed.maximum, 2**bits - 1)
    assert (unsigned.minimum, unsigned.maximum, unsigned.num_levels) == (0, 2**bits - 1, 2**bits)
    assert (signed.type_name, narrow.type_name, unsigned.type_name) == (f"int{bits}", f"int{bits}", f"uint{bits}")


@pytest.mark.parametrize("bits", range(2, 17))
@pytest.mark.parametrize("sign", ["", "u"])
def test_parse_is_the_inverse_of_the_type_name(bits: int, sign: str) -> None:
    grid = Grid.parse(f"{sign}int{bits}", symmetric=False, channel_axis=1, narrow=True)
    assert grid == Grid(bits, not sign, False, 1, narrow=not sign)  # an unsigned grid cannot be narrow
    assert grid.type_name == f"{sign}int{bits}"


MISTYPED = [("itn8", "int8"), ("Int8", "int8"), ("int8 ", "int8"), ("unit4", "uint4"), ("uint17", "uint")]


@pytest.mark.parametrize(("written", "meant"), MISTYPED)
def test_a_mistyped_type_is_answered_with_the_closest(written: str, meant: str) -> None:
    with pytest.raises(RecipeError, match=rf"'{written}' is not an integer type of 2 to 16 bits\. Did you mean '{meant}"):
        Grid.parse(written)


@pytest.mark.parametrize("written", ["", "int", "int1", "uint0", "int17", "int32", "int-4", "int8\n", "8", "xint8", "int8.0"])
def test_what_is_no_type_is_refused(written: str) -> None:
    with pytest.raises(RecipeError, match="is not an integer type of 2 to 16 bits"):
        Grid.parse(written)


def test_a_hopeless_type_is_answered_with_all_of_them() -> None:
    with pytest.raises(RecipeError, match=r"Known: int10, .*uint9\."):
        Grid.parse("banana")


@pytest.mark.parametrize("bits", [-1, 0, 1, 33, 64])
def test_a_grid_has_2_to_32_bits(bits: int) -> None:
    with pytest.raises(RecipeError, match=f"2 to 32 bits, not {bits}"):
        Grid(bits, True)


def test_an_unsigned_grid_is_not_narrow() -> None:
    with pytest.raises(RecipeError, match="no lowest code to leave out"):
        Grid(8, False, narrow=True)


@pytest.mark.parametrize("bits", range(2, 33))
@pytest.mark.parametrize("signed", [True, False])
def test_the_storage_holds_every_code(bits: int, signed: bool) -> None:
    grid = Grid(bits, signed)
    storage = torch.iinfo(grid.storage)
    assert storage.min <= grid.minimum
    assert grid.maximum <= storage.max
    extremes = torch.tensor([grid.minimum, grid.maximum], dtype=torch.float64)
    stored = Quantized(extremes, torch.tensor(1.0), torch.tensor(0.0), grid).integers()
    assert stored.dtype == grid.storage
    assert stored.tolist() == [grid.minimum, grid.maximum]


@pytest.mark.parametrize("bits", range(2, 17))
@pytest.mark.parametrize("signed", [True, False])
def test_the_storage_is_the_smallest(bits: int, signed: bool) -> None:
    info = torch.iinfo(Grid(bits, signed).storage)
    assert info.bits == (8 if bits <= 8 else 16)
    assert (info.min < 0) == signed


def test_a_grid_is_a_value() -> None:
    grid = Grid(4, True, False, 1, True)
    assert Grid(**json.loads(json.dumps(grid.to_json()))) == grid
    assert hash(grid) == hash(dataclasses.replace(grid))
    assert grid.per_tensor() == Grid(4, True, False, None, True)
    with pytest.raises(dataclasses.FrozenInstanceError):
        grid.bits = 8  # type: ignore[misc]


@pytest.mark.parametrize(("axis", "shape"), [(0, (3, 1, 1, 1)), (1, (1, 3, 1, 1)), (3, (1, 1, 1, 3)), (-1, (1, 1, 1, 3))])
def test_along_broadcasts_over_the_channel_axis(axis: int, shape: tuple[int, ...]) -> None:
    parameter = torch.arange(3.0)
    along = Grid(8, True, channel_axis=axis).along(parameter, (3, 3, 3, 3))
    assert along.shape == shape
    assert along.flatten().tolist() == parameter.tolist()


def test_along_leaves_single_numbers_as_they_are() -> None:
    one = torch.tensor(2.0)
    assert Grid(8, True).along(one, (3, 3)) is one
    assert Grid(8, True, channel_axis=1).along(one, (3, 3)) is one


@settings(deadline=None, max_examples=40)
@given(st.integers(1, 4), st.integers(1, 40), st.integers(1, 20), st.booleans(), st.integers(0, 2**31))
def test_a_group_is_a_tensor_on_its_own(num_channels: int, num_entries: int, group_size: int, symmetric: bool, seed: int) -> None:
    """Whether or not the size divides the row."""
    generator = torch.Generator().manual_seed(seed)
    grid = Grid(4, True, symmetric, 0, group_size=group_size)
    x = torch.randn(num_channels, num_entries, generator=generator)
    shape = grid.scale_shape(x.shape)
    assert shape == (num_channels, -(-num_entries // group_size))
    scale = torch.rand(shape, generator=generator) + 0.1
    zero_point = torch.zeros(shape) if symmetric else torch.randint(-8, 8, shape, generator=generator).float()
    together = quantize_affine(x, scale, zero_point, grid)
    for channel in range(num_channels):
        for group in range(shape[1]):
            place = channel, slice(group * group_size, (group + 1) * group_size)
            alone = quantize_affine(x[place], scale[channel, group], zero_point[channel, group], grid.per_tensor())
            assert torch.equal(together.codes[place], alone.codes)
            assert torch.equal(together.dequantize()[place], alone.dequantize())


def test_the_scale_has_the_shape_of_what_shares_it() -> None:
    assert Grid(4, True).scale_shape((3, 5)) == ()
    assert Grid(4, True, channel_axis=1).scale_shape((3, 5, 2)) == (5,)
    assert Grid(4, True, channel_axis=0, group_size=2).scale_shape((3, 5)) == (3, 3)
    assert Grid(4, True, channel_axis=0, group_size=2).per_channel() == Grid(4, True, channel_axis=0)


@pytest.mark.parametrize(("axis", "size"), [(None, 32), (1, 32), (0, 0)])
def test_groups_belong_to_output_channels(axis: int | None, size: int) -> None:
    with pytest.raises(RecipeError, match="set per_channel where group_size is set"):
        Grid(4, True, channel_axis=axis, group_size=size)


@pytest.mark.parametrize(("axis", "shape"), [(0, (3, 2, 5)), (1, (2, 3, 5)), (2, (2, 5, 3))])
def test_per_channel_is_each_channel_on_its_own(axis: int, shape: tuple[int, ...], generator: torch.Generator) -> None:
    x = torch.randn(shape, generator=generator)
    grid = Grid(4, False, False, axis)
    scale, zero_point = torch.tensor([0.1, 0.2, 0.4]), torch.tensor([3.0, 0.0, 15.0])
    together = quantize_affine(x, scale, zero_point, grid)
    for channel in range(3):
        alone = quantize_affine(x.select(axis, channel), scale[channel], zero_point[channel], grid.per_tensor())
        assert torch.equal(together.codes.select(axis, channel), alone.codes)
        assert torch.equal(together.dequantize().select(axis, channel), alone.dequantize())


def test_ties_go_to_the_even_code() -> None:
    x = torch.tensor([-3.5, -2.5, -1.5, -0.5, 0.5, 1.5, 2.5, 3.5])
    assert quantize(x, 1.0, 0, Grid(8, True)).codes.tolist() == [-4, -2, -2, 0, 0, 2, 2, 4]
    # the tie is broken before the zero point is added, as ONNX says: an odd zero point gives odd codes
    assert quantize(x, 1.0, 7, Grid(8, False, False)).codes.tolist() == [3, 5, 5, 7, 7, 9, 9, 11]


@settings(deadline=None, max_examples=80)
@given(GRIDS, SCALES, st.floats(0, 1), st.lists(st.floats(-1.5, 1.5, width=32), min_size=1, max_size=30), st.data())
def test_codes_equal_the_reference(grid: Grid, scale: float, share: float, spread: list[float], data: st.DataObject) -> None:
    zero_point = zero_point_of(grid, share)
    ties = data.draw(st.lists(st.integers(-grid.num_levels, grid.num_levels), max_size=10))
    x = np.array([value * grid.num_levels * scale for value in spread] + [(tie + 0.5) * scale for tie in ties], dtype=np.float32)
    found = quantize(torch.from_numpy(x), scale, zero_point, grid)
    assert found.codes.tolist() == reference(x, np.float32(scale), zero_point, grid).tolist()
    assert found.integers().tolist() == found.codes.tolist()


@settings(deadline=None, max_examples=80)
@given(GRIDS, SCALES, st.floats(0, 1), st.lists(st.floats(0, 1, width=32), min_size=1, max_size=30))
def test_the_error_is_at_most_half_a_step_inside_the_range(grid: Grid, scale: float, share: float, places: list[float]) -> None:
    """The quotient is rounded to float32 first: |x / s - code| <= 1/2 + |x / s| u; the last product may err by |x| u again."""
    zero_point = zero_point_of(grid, share)
    low, high = (grid.minimum - zero_point) * scale, (grid.maximum - zero_point) * scale
    x = torch.tensor([low + place * (high - low) for place in places])
    quantized = quantize(x, scale, zero_point, grid)
    bound = scale / 2 + x.double().abs() * UNIT
    exact = (quantized.codes.double() - zero_point) * scale
    assert bool(((exact - x.double()).abs() <= bound * (1 + 1e-12)).all())
    assert bool(((quantized.dequantize().double() - x.double()).abs() <= (bound + exact.abs() * UNIT) * (1 + 1e-12)).all())


@settings(deadline=None, max_examples=80)
@given(GRIDS, SCALES, st.floats(0, 1), st.lists(st.floats(allow_nan=False, allow_infinity=False, width=32), min_size=2, max_size=30))
def test_codes_are_monotone_and_on_the_grid(grid: Grid, scale: float, share: float, values: list[float]) -> None:
    codes = quantize(torch.tensor(sorted(values)), scale, zero_point_of(grid, share), grid).codes
    assert bool((codes.diff() >= 0).all())
    assert torch.equal(codes, codes.round())
    assert grid.minimum <= codes.min() and codes.max() <= grid.maximum


@settings(deadline=None, max_examples=60)
@given(GRIDS, SCALES, st.floats(0, 1))
def test_quantizing_dequantized_codes_gives_them_back(grid: Grid, scale: float, share: float) -> None:
    """All codes of the grid: two roundings move a quotient of at most 2^17 by 2^17 * 2 u = 1/64 at most."""
    zero_point = zero_point_of(grid, share)
    codes = torch.arange(grid.minimum, grid.maximum + 1, dtype=torch.float32)
    values = Quantized(codes, torch.tensor(scale), torch.tensor(float(zero_point)), grid).dequantize()
    again = quantize(values, scale, zero_point, grid)
    assert torch.equal(again.codes, codes)
    assert torch.equal(again.dequantize(), values)


@settings(deadline=None, max_examples=50)
@given(GRIDS, SCALES, st.floats(0, 1))
def test_zero_is_exact(grid: Grid, scale: float, share: float) -> None:
    quantized = quantize(torch.zeros(3), scale, zero_point_of(grid, share), grid)
    assert quantized.dequantize().tolist() == [0.0] * 3


def test_round_straight_through_has_gradient_one_everywhere() -> None:
    x = torch.tensor([-2.5, -0.5, 0.0, 0.3, 1.5, 1e30], requires_grad=True)
    weights = torch.arange(1.0, 7.0)
    y = round_straight_through(x)
    assert y.tolist() == torch.round(x.detach()).tolist()
    (y * weights).sum().backward()
    assert x.grad is not None
    assert x.grad.tolist() == weights.tolist()
    with torch.no_grad():
        assert not round_straight_through(x).requires_grad


@pytest.mark.parametrize("grid", [Grid(3, True), Grid(3, True, narrow=True), Grid(4, False, False), Grid(8, True, False)])
def test_gradients_equal_the_closed_form(grid: Grid, generator: torch.Generator) -> None:
    """For v = (clamp(round(x/s) + z) - z) s, straight through the rounding (Esser et al. 2020, equations 3 and 5).

    inside:   dv/dx = 1,  dv/ds = round(x/s) - x/s,  dv/dz = 0        clipped to q:  dv/dx = 0,  dv/ds = q - z,  dv/dz = -s
    In float32 each is a chain of at most four roundings of numbers no larger than |q| <= 255.
    """
    zero_point = 0.0 if grid.symmetric else float(grid.minimum + 5)
    x = (torch.randn(2000, generator=generator) * grid.num_levels * 0.2).requires_grad_()
    scale, shift = torch.tensor(0.37, requires_grad=True), torch.tensor(zero_point, requires_grad=True)
    weights = torch.randn(2000, generator=generator)
    by_x, by_scale, by_shift = torch.autograd.grad((quantize_affine(x, scale, shift, grid).dequantize() * weights).sum(), (x, scale, shift))
    steps = (x.detach() / 0.37).double()
    code = steps.round() + zero_point
    is_inside = (grid.minimum <= code) & (code <= grid.maximum)
    assert 200 < int(is_inside.sum()) < 1900  # both cases are there
    torch.testing.assert_close(by_x, weights * is_inside, rtol=4 * UNIT, atol=0)
    from_scale = torch.where(is_inside, steps.round() - steps, code.clamp(grid.minimum, grid.maximum) - zero_point)
    tolerance = 2000 * 4 * UNIT * 256  # 2000 terms
    assert float(by_scale) == pytest.approx(float((from_scale * weights).sum()), abs=tolerance)
    assert float(by_shift) == pytest.approx(float((-0.37 * weights.double() * ~is_inside).sum()), abs=tolerance)


def test_the_gradient_ends_where_the_rounded_code_leaves_the_grid() -> None:
    x = torch.tensor([-8.6, -8.4, 7.4, 7.6, 100.0], requires_grad=True)
    quantize(x, 1.0, 0, Grid(4, True)).dequantize().sum().backward()
    assert x.grad is not None
    assert x.grad.tolist() == [0.0, 1.0, 1.0, 0.0, 0.0]


def test_dequantize_keeps_the_type_of_the_codes() -> None:
    for dtype in (torch.float32, torch.float64):
        codes = torch.arange(4, dtype=dtype)
        quantized = Quantized(codes, torch.tensor(0.5, dtype=dtype), torch.tensor(1.0, dtype=dtype), Grid(8, False, False))
        assert quantized.dequantize().dtype == dtype
        assert quantized.dequantize().tolist() == [-0.5, 0.0, 0.5, 1.0]
