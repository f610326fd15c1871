"""Programs on disk: the same bytes, the same results, and an error for anything that is no program."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import safetensors
import safetensors.torch
import torch
from hypothesis import HealthCheck, given, settings
from random_programs import programs, random_codes, random_program
from torch import Tensor

from halfstep.errors import HalfstepError, LoweringError
from halfstep.integer import IntegerProgram, check, run
from halfstep.integer.operators import OPERATORS

_settings = settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])


@given(programs())
@_settings
def test_round_trip(tmp_path: Path, program: IntegerProgram) -> None:
    program.save(tmp_path / "a.hsp")
    loaded = check(IntegerProgram.load(tmp_path / "a.hsp"))
    assert (loaded.values, loaded.inputs, loaded.outputs) == (program.values, program.inputs, program.outputs)
    assert (loaded.name, loaded.mode, loaded.notes) == (program.name, program.mode, program.notes)
    for one, other in zip(program.operators, loaded.operators, strict=True):
        assert type(one) is type(other)
        assert (one.name, one.inputs, one.output) == (other.name, other.inputs, other.output)
        for (field, array), (other_field, other_array) in zip(one.arrays(), other.arrays(), strict=True):
            assert field == other_field
            assert torch.equal(array, other_array)
    loaded.save(tmp_path / "b.hsp")
    assert (tmp_path / "a.hsp").read_bytes() == (tmp_path / "b.hsp").read_bytes()
    codes = random_codes(program, 2, 0)
    assert _equal(run(program, codes), run(loaded, codes))


def _equal(one: tuple[Tensor, ...], other: tuple[Tensor, ...]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


@pytest.mark.parametrize("seed", range(10))
def test_the_mode_float_keeps_its_real_scales(tmp_path: Path, seed: int) -> None:
    program = random_program(seed, mode="float")
    program.save(tmp_path / "a.hsp")
    loaded = IntegerProgram.load(tmp_path / "a.hsp")
    codes = random_codes(program, 8, seed)
    assert _equal(run(program, codes), run(loaded, codes))
    for one, other in zip(program.operators, loaded.operators, strict=True):
        real = getattr(getattr(one, "rescale", None), "real", None)
        assert real is None or torch.equal(real, other.rescale.real)  # type: ignore[attr-defined]


def test_an_operator_knows_its_kind() -> None:
    assert {OPERATORS[kind].kind for kind in OPERATORS} == set(OPERATORS)


def test_bytes_are_counted_packed(tmp_path: Path) -> None:
    program = next(p for p in map(random_program, range(100)) if any(op.kind == "conv" for op in p.operators))
    program.save(tmp_path / "a.hsp")
    with safetensors.safe_open(tmp_path / "a.hsp", "pt") as file:
        stored = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    assert sum(tensor.numel() * tensor.element_size() for tensor in stored.values()) == program.num_weight_bytes


@pytest.mark.parametrize("part", [0.0, 0.1, 0.5, 0.99])
def test_a_truncated_file(tmp_path: Path, part: float) -> None:
    random_program(3).save(tmp_path / "a.hsp")
    whole = (tmp_path / "a.hsp").read_bytes()
    (tmp_path / "a.hsp").write_bytes(whole[: int(len(whole) * part)])
    with pytest.raises(LoweringError, match=r"a\.hsp' holds no integer program"):
        IntegerProgram.load(tmp_path / "a.hsp")


def test_a_missing_or_foreign_file(tmp_path: Path) -> None:
    with pytest.raises(LoweringError, match="holds no integer program"):
        IntegerProgram.load(tmp_path / "missing.hsp")
    (tmp_path / "text").write_text("no program")
    with pytest.raises(LoweringError, match="holds no integer program"):
        IntegerProgram.load(tmp_path / "text")
    safetensors.torch.save_file({"a": torch.zeros(2)}, tmp_path / "weights.safetensors")
    with pytest.raises(LoweringError, match="holds no integer program"):
        IntegerProgram.load(tmp_path / "weights.safetensors")


def _edited(tmp_path: Path, **changes: object) -> Path:
    """A program whose header says something else."""
    random_program(3).save(tmp_path / "a.hsp")
    with safetensors.safe_open(tmp_path / "a.hsp", "pt") as file:
        header = json.loads(file.metadata()["halfstep"])
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    safetensors.torch.save_file(tensors, tmp_path / "a.hsp", {"halfstep": json.dumps({**header, **changes})})
    return tmp_path / "a.hsp"


def test_another_format(tmp_path: Path) -> None:
    with pytest.raises(LoweringError, match=r"was written in format 99; this version of halfstep reads format 1\."):
        IntegerProgram.load(_edited(tmp_path, format=99))


def test_operators_of_other_kinds_or_fields(tmp_path: Path) -> None:
    start = {"name": "a", "inputs": ["x"], "output": "y"}
    for operators in ([{"kind": "convolve", **start}], [{"kind": "reshape", **start, "size": 3}], [{"kind": "copy", **start}], [3]):
        with pytest.raises(HalfstepError, match=r"a\.hsp' holds no integer program"):
            IntegerProgram.load(_edited(tmp_path, operators=operators))
    with pytest.raises(LoweringError, match="holds no integer program"):
        IntegerProgram.load(_edited(tmp_path, values=[{"name": "x"}]))


def test_the_same_program_gives_the_same_bytes(tmp_path: Path) -> None:
    for name in ("a", "b"):
        random_program(7).save(tmp_path / name)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_a_failed_save_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(HalfstepError):
        random_program(3).save(tmp_path / "missing" / "a.hsp")
    assert list(tmp_path.iterdir()) == []
