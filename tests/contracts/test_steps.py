"""Every registered step, range and rounding as something a recipe can hold; every registered class as something one can read."""

from __future__ import annotations

import inspect
import json
import re
import sys
from typing import Any

import pydantic
import pytest
import yaml

from halfstep.errors import RecipeError
from halfstep.quantizers import QUANTIZERS
from halfstep.ranges import RANGES
from halfstep.registry import Registry
from halfstep.rounding import ROUNDINGS
from halfstep.steps import STEPS, AbstractStep

REGISTRIES: dict[str, Registry[Any]] = {"range": RANGES, "rounding": ROUNDINGS, "step": STEPS, "quantizer": QUANTIZERS}
EVERYTHING = [(kind, name) for kind, registry in REGISTRIES.items() for name in registry]
METHODS = [(kind, name) for kind, name in EVERYTHING if kind != "quantizer"]  # a quantizer is no line of a recipe

# An indented line (set off as a formula), an equation within a line, or a row of a table.
FORMULA = re.compile(r"\n {4}\S|\S (=|<-|->|argmin|:=) \S|\S {4,}\S")


@pytest.mark.parametrize(("kind", "name"), EVERYTHING)
def test_its_file_opens_with_a_formula_or_table_and_its_class_says_what_it_is(kind: str, name: str) -> None:
    cls = REGISTRIES[kind][name]
    opening = sys.modules[cls.__module__].__doc__
    assert opening, f"{cls.__module__} has no docstring"
    assert FORMULA.search(opening), f"{cls.__module__} opens without a formula or table"
    assert cls.__doc__ and cls.__doc__.strip()
    assert "__doc__" in vars(cls)  # its own, not inherited


@pytest.mark.parametrize(("kind", "name"), EVERYTHING)
def test_it_is_final_and_knows_its_name(kind: str, name: str) -> None:
    cls = REGISTRIES[kind][name]
    assert getattr(cls, "__final__", False), f"{cls.__name__} is not marked @final"
    assert not inspect.isabstract(cls)
    assert cls.name == name
    assert re.fullmatch(r"[a-z][a-z0-9_]*", name)
    assert [other for other in REGISTRIES[kind] if REGISTRIES[kind][other] is cls] == [name]


@pytest.mark.parametrize(("kind", "name"), METHODS)
def test_spec_and_full_spec_make_it_again(kind: str, name: str) -> None:
    method = REGISTRIES[kind].create(name)
    assert method.spec() == name  # the defaults need not be written
    for written in (method.spec(), method.full_spec()):
        for read in (written, json.loads(json.dumps(written)), yaml.safe_load(yaml.safe_dump(written))):
            again = REGISTRIES[kind].create(read)
            assert type(again) is type(method)
            assert again.full_spec() == method.full_spec()  # methods within are written out there: "mse" and {"mse": {...}} are one
    assert REGISTRIES[kind].create(method.spec()) == method
    full = method.full_spec()
    fields = set(type(method).model_fields)
    assert full == name if not fields else set(full[name]) == fields


@pytest.mark.parametrize(("kind", "name"), METHODS)
def test_an_unknown_option_is_refused(kind: str, name: str) -> None:
    with pytest.raises(RecipeError, match=f"'{name}' has no option 'no_such_option'"):
        REGISTRIES[kind].create({name: {"no_such_option": 1}})


@pytest.mark.parametrize(("kind", "name"), METHODS)
def test_a_mistyped_option_is_answered_with_the_closest(kind: str, name: str) -> None:
    for option in REGISTRIES[kind][name].model_fields:
        with pytest.raises(RecipeError, match=rf"'{name}' has no option '{option}x'\. Did you mean '{option}'\?"):
            REGISTRIES[kind].create({name: {option + "x": 1}})


@pytest.mark.parametrize(("kind", "name"), METHODS)
def test_a_value_that_does_not_fit_is_refused_with_the_option(kind: str, name: str) -> None:
    for option in REGISTRIES[kind][name].model_fields:
        with pytest.raises(RecipeError):
            REGISTRIES[kind].create({name: {option: object()}})


@pytest.mark.parametrize(("kind", "name"), METHODS)
def test_it_is_immutable(kind: str, name: str) -> None:
    method = REGISTRIES[kind].create(name)
    for option in type(method).model_fields:
        with pytest.raises(pydantic.ValidationError):
            setattr(method, option, None)


@pytest.mark.parametrize("name", list(STEPS))
def test_is_a_step(name: str) -> None:
    assert issubclass(STEPS[name], AbstractStep)
