"""Names, options, and what is said when one of them does not exist."""

from __future__ import annotations

import json
from typing import Any

import pydantic
import pytest
import yaml
from pydantic import Field

from halfstep.errors import HalfstepError, RecipeError, did_you_mean
from halfstep.registry import Method, Registry, Spec, parse_spec

COLOURS: Registry[Method] = Registry("colour")


@COLOURS.register("green")
class Green(Method):
    """A colour with options."""

    shade: float = Field(default=0.5, ge=0, le=1)
    names: tuple[str, ...] = ()
    inner: Spec = "plain"


@COLOURS.register("blue")
class Blue(Method):
    """A colour without."""


def test_a_class_knows_its_name_and_the_registry_its_classes() -> None:
    assert (Green.name, Blue.name) == ("green", "blue")
    assert list(COLOURS) == ["blue", "green"]  # sorted
    assert len(COLOURS) == 2
    assert COLOURS["green"] is Green
    assert "green" in COLOURS
    assert "red" not in COLOURS


def test_an_unknown_name_is_answered_with_the_closest() -> None:
    with pytest.raises(RecipeError, match=r"^Unknown colour 'gren'\. Did you mean 'green'\?$"):
        COLOURS["gren"]


def test_a_hopeless_name_is_answered_with_all_of_them() -> None:
    with pytest.raises(RecipeError, match=r"^Unknown colour 'ultraviolet'\. Known: blue, green\.$"):
        COLOURS.create("ultraviolet")


def test_what_names_a_method_is_checked_and_handed_on() -> None:
    spec = {"green": {"shade": 0.25}}
    assert COLOURS.checked(spec) is spec and COLOURS.checked("blue") == "blue"
    with pytest.raises(RecipeError, match="Did you mean 'green'"):
        COLOURS.checked("gren")
    with pytest.raises(RecipeError, match="has no option 'shad'"):
        COLOURS.checked({"green": {"shad": 1}})


def test_an_empty_registry_says_so() -> None:
    with pytest.raises(RecipeError, match=r"Unknown thing 'x'\. Known: none\."):
        Registry[Method]("thing")["x"]


def test_a_name_is_registered_once() -> None:
    with pytest.raises(ValueError, match="colour 'green' is registered twice"):
        COLOURS.register("green")(Blue)
    assert COLOURS["green"] is Green
    assert Blue.name == "blue"


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ({"green": {"shaed": 0.1}}, r"^'green' has no option 'shaed'\. Did you mean 'shade'\?$"),
        ({"green": {"weight": 0.1}}, r"^'green' has no option 'weight'\. Known: inner, names, shade\.$"),
        ({"blue": {"x": 1}}, r"^'blue' has no option 'x'\. Known: none\.$"),
        ({"green": {"shade": 2.5}}, r"^'green': option 'shade' does not fit: .*less than or equal to 1 \(got 2\.5\)\.$"),
        ({"green": {"shade": "dark"}}, r"^'green': option 'shade' does not fit: .*number.* \(got 'dark'\)\.$"),
        ({"green": {"names": ["a", 3]}}, r"^'green': option 'names\.1' does not fit: .* \(got 3\)\.$"),
    ],
)
def test_an_option_that_does_not_fit_is_named_with_its_value(spec: Spec, message: str) -> None:
    with pytest.raises(RecipeError, match=message) as caught:
        COLOURS.create(spec)
    assert caught.value.__cause__ is None and caught.value.__suppress_context__  # no pydantic beneath it
    assert isinstance(caught.value, HalfstepError)


@pytest.mark.parametrize("key", [1, True, None, 2.5])
def test_an_option_whose_name_is_no_text_is_refused_in_the_same_way(key: Any) -> None:
    """YAML reads ``{on: 1}`` and ``{1: 1}`` as mappings from True and from 1."""
    with pytest.raises(RecipeError, match="green"):
        COLOURS.create({"green": {key: 1}})


@pytest.mark.parametrize("written", [{}, {"green": {}, "blue": {}}, ["green"], {"green": 3}, {"green": ["shade"]}, {1: {}}, 7, None])
def test_what_is_no_spec_is_refused(written: Any) -> None:
    with pytest.raises(RecipeError, match=r"A colour is written as its name or as \{name: \{option: value\}\}, not as"):
        parse_spec(written, "colour")


def test_forms_of_a_spec() -> None:
    assert parse_spec("green", "colour") == ("green", {})
    assert parse_spec({"green": None}, "colour") == ("green", {})  # YAML's "green:" with nothing behind it
    assert parse_spec({"green": {"shade": 1}}, "colour") == ("green", {"shade": 1})


@pytest.mark.parametrize("options", [{}, {"shade": 0.25}, {"names": ("a", "b")}, {"shade": 0.5}, {"inner": {"other": {"x": [1, 2]}}}])
def test_a_spec_round_trips_through_yaml_and_json(options: dict[str, Any]) -> None:
    method = Green(**options)
    for written in (method.spec(), method.full_spec()):
        assert COLOURS.create(yaml.safe_load(yaml.safe_dump(written))) == method
        assert COLOURS.create(json.loads(json.dumps(written))) == method


def test_a_spec_is_as_short_as_can_be_and_a_full_one_complete() -> None:
    assert Green().spec() == "green"
    assert Green(shade=0.25).spec() == {"green": {"shade": 0.25}}
    assert Green().full_spec() == {"green": {"shade": 0.5, "names": [], "inner": "plain"}}
    assert Blue().full_spec() == "blue"


def test_a_method_is_a_value() -> None:
    assert Green() == Green(shade=0.5)
    assert Green() != Green(shade=0.6)
    with pytest.raises(pydantic.ValidationError):
        Green().shade = 0.1  # type: ignore[misc]


def test_did_you_mean_does_not_guess_wildly() -> None:
    assert did_you_mean("percentil", ["percentile", "mse"]) == "Did you mean 'percentile'?"
    assert did_you_mean("zzz", ["percentile", "mse"]) == "Known: mse, percentile."
    assert did_you_mean("x", []) == "Known: none."
