"""Random integer programs: small, sound by `integer.check`, of all operators, widths, modes and shapes. What every way out is tried on."""

from __future__ import annotations

from random import Random

import torch
from hypothesis import strategies as st
from program_builder import Builder, TooLargeError
from random_operators import BUILDERS
from torch import Tensor

from halfstep.errors import LoweringError
from halfstep.integer import IntegerProgram, check

INTEGER_MODES = ("fixed_point_32", "fixed_point_16", "single_shift", "double_shift")
_KINDS = tuple(sorted(BUILDERS))
# Layers as networks have them more often than the rest; a constant that nothing reads teaches little.
_WEIGHTS = tuple({"conv": 4, "conv_transpose": 2, "linear": 2, "add": 2, "constant": 0.2}.get(kind, 1) for kind in _KINDS)


def random_program(seed: int, mode: str | None = None) -> IntegerProgram:
    """A sound program of 1 to 8 operators (constants of its own beside them), the same for the same seed.

    mode: of requantization; None: one of the integer modes.
    """
    return build(Random(seed), mode, f"random_{seed}")


def programs(mode: str | None = None) -> st.SearchStrategy[IntegerProgram]:
    """The same for Hypothesis, which shrinks the choices."""
    return st.randoms(use_true_random=False).map(lambda random: build(random, mode))


def random_codes(program: IntegerProgram, num_samples: int, seed: int) -> tuple[Tensor, ...]:
    """Codes of the inputs, int32 [num_samples, ...]: samples of the least codes, the greatest, zeros, ends alone, and of anything."""
    generator = torch.Generator().manual_seed(seed)
    codes = []
    for name in program.inputs:
        value = program.values[name]
        low, high, shape = value.grid.minimum, value.grid.maximum, (num_samples, *value.shape)
        anything = torch.randint(low, high + 1, shape, generator=generator)
        ends = torch.where(torch.rand(shape, generator=generator) < 0.5, low, high)
        style = torch.randint(0, 8, (num_samples,), generator=generator).view(-1, *[1] * len(value.shape))
        single = torch.where(style == 0, low, torch.where(style == 1, high, value.zero_point))
        codes.append(torch.where(style < 3, single, torch.where(style == 3, ends, anything)).to(torch.int32))
    return tuple(codes)


def build(random: Random, mode: str | None = None, name: str = "random") -> IntegerProgram:
    """A program whose choices all come from ``random``."""
    builder = Builder(random, mode or random.choice(INTEGER_MODES))
    for _ in range(random.choice([1, 1, 2])):
        builder.inputs.append(builder.new("input", _input_shape(random), builder.grid()).name)
    for _ in range(random.randint(1, 8)):
        _append(builder)
    return check(IntegerProgram(name, builder.values, tuple(builder.operators), tuple(builder.inputs), _outputs(builder), builder.mode))


def _input_shape(random: Random) -> tuple[int, ...]:
    num_axes = random.choice([0, 1, 1, 2, 2, 2, 2, 3])  # behind the channels
    return (random.randint(1, 6), *[random.randint(1, 8 if num_axes < 3 else 4) for _ in range(num_axes)])


def _append(builder: Builder) -> None:
    """One more operator: of the kinds in random order the first that finds values it can work on."""
    for _ in range(20):
        size = len(builder.values), len(builder.operators), len(builder.inputs)
        kind = builder.random.choices(_KINDS, _WEIGHTS)[0]
        try:
            if BUILDERS[kind](builder) is not None:
                return
        except (TooLargeError, LoweringError):  # LoweringError: a scale that the mode cannot stand for
            pass
        # What was made on the way for an operator that came to nothing.
        for name in list(builder.values)[size[0] :]:
            del builder.values[name]
        del builder.operators[size[1] :], builder.inputs[size[2] :]


def _outputs(builder: Builder) -> tuple[str, ...]:
    """Every value that nothing reads, and now and then one that is read, an input, or the same twice."""
    read = {name for operator in builder.operators for name in operator.inputs}
    made = [operator.output for operator in builder.operators]
    outputs = [name for name in made if name not in read]
    if builder.chance(0.2):
        outputs.append(builder.random.choice([*made, outputs[0], builder.inputs[0]] if outputs else builder.inputs))
    builder.random.shuffle(outputs)
    return tuple(outputs or builder.inputs[:1])
