"""Recipes on disk and in code, and what is said when one does not fit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pydantic
import pytest
import torch
import yaml
from torch import nn

import halfstep.recipes.recipe as recipe_module
import zoo
from halfstep.data import Preprocessing
from halfstep.errors import RecipeError
from halfstep.graph.capture import capture
from halfstep.graph.statistics import Statistics, fingerprint
from halfstep.recipes import Recipe, shipped
from halfstep.steps import STEPS, AbstractStep, Context, LayerTypes, Override, Scheme, WeightScheme
from halfstep.steps.scheme import Place

CALIBRATE = {"calibrate": {"weights": "min_max", "activations": {"percentile": {"percentile": 99.9}}}}
STEP_LIST = ["fold_batch_norm", "place_quantizers", CALIBRATE]


def minimal(**more: Any) -> dict[str, Any]:
    return {"name": "mine", "steps": STEP_LIST, **more}


def test_the_shipped_recipes_are_the_files() -> None:
    files = Path(recipe_module.__file__).parent.glob("*.yaml")
    assert shipped() == sorted(file.stem for file in files)
    assert {"int8", "int8-per-tensor", "w4a8"} <= set(shipped())


@pytest.mark.parametrize("name", shipped())
def test_a_shipped_recipe_loads_and_says_what_it_is_for(name: str) -> None:
    recipe = Recipe.load(name)
    assert recipe.name == name
    assert recipe.description.endswith(".")
    assert all(isinstance(step, AbstractStep) for step in recipe.build_steps())
    assert recipe.preprocessing is None  # it knows nothing of anybody's data


@pytest.mark.parametrize("name", shipped())
def test_yaml_is_a_fixed_point(name: str, tmp_path: Path) -> None:
    written = Recipe.load(name).to_yaml()
    path = tmp_path / "again.yaml"
    path.write_text(written, encoding="utf-8")
    again = Recipe.load(path)
    assert again.to_yaml() == written
    assert [step.full_spec() for step in again.build_steps()] == [step.full_spec() for step in Recipe.load(name).build_steps()]
    assert again.scheme == Recipe.load(name).scheme


def test_everything_a_recipe_can_hold_survives_yaml() -> None:
    recipe = Recipe.parse(
        minimal(
            description="Grüße: ≤ half a step",
            preprocessing={"mean": [0.5, 0.4, 0.3], "std": [0.2, 0.2, 0.2], "size": 40, "crop": 32},
            scheme={
                "weights": {"type": "int4", "per_channel": True},
                "activations": {"type": "uint8", "symmetric": False},
                "outputs": True,
                "first_layer": {"weights": "int8", "activations": "float"},
                "overrides": [{"pattern": "layer1.*", "weights": "int3"}, {"pattern": "head", "activations": "float"}],
            },
        )
    )
    again = Recipe.parse(yaml.safe_load(recipe.to_yaml()))
    assert again.to_yaml() == recipe.to_yaml()
    assert "Grüße: ≤ half a step" in recipe.to_yaml()
    assert (again.scheme, again.preprocessing) == (recipe.scheme, recipe.preprocessing)


def test_a_written_recipe_holds_every_default() -> None:
    """What ran can be run again by a version with other defaults: those of a method named within a step too."""
    written = yaml.safe_load(Recipe.load("int8").to_yaml())
    options = [next(iter(step.values())) for step in written["steps"] if isinstance(step, dict) and "calibrate" in step]
    mse = {"mse": {"num_candidates": 32}}
    assert options == [{"weights": mse, "activations": mse, "scores": None, "strict": False}]
    assert set(written["scheme"]) == set(Scheme.model_fields)
    assert set(written["scheme"]["weights"]) == set(WeightScheme.model_fields)


def test_an_unknown_recipe_is_answered_with_the_closest() -> None:
    message = r"Unknown recipe 'int9'\. Did you mean 'int8'\? A recipe of your own is a path that ends in \.yaml\."
    with pytest.raises(RecipeError, match=message):
        Recipe.load("int9")
    with pytest.raises(RecipeError, match=rf"Unknown recipe 'zzz'\. Known: {', '.join(shipped()[:3])}, "):
        Recipe.load("zzz")


UNFIT: list[tuple[Any, str]] = [
    (minimal(steps=["fold_batchnorm"]), r"Unknown step 'fold_batchnorm'\. Did you mean 'fold_batch_norm'\?"),
    (minimal(steps=[{"calibrate": {"weigths": "mse"}}]), r"'calibrate' has no option 'weigths'\. Did you mean 'weights'\?"),
    (minimal(steps=[{"calibrate": {"weights": "mes"}}]), r"Unknown range 'mes'\. Did you mean 'mse'\?"),
    (minimal(steps=[{"calibrate": {"weights": {"mse": {"candidates": 9}}}}]), r"'mse' has no option 'candidates'\. Did you mean 'num_cand"),
    (minimal(steps=[{"calibrate": {"weights": {"mse": {"num_candidates": 3}}}}]), r"'mse': option 'num_candidates'.*\(got 3\)"),
    (minimal(steps=[{"round": {"method": "neerest"}}]), r"Unknown rounding 'neerest'\. Did you mean 'nearest'\?"),
    (minimal(scheme={"weights": {"type": "itn4"}}), r"'itn4' is not an integer type of 2 to 16 bits\. Did you mean 'int4'\?"),
    (minimal(scheme={"first_layer": {"weights": "int1"}}), r"'int1' is not an integer type"),
    (minimal(scheme={"overrides": [{"pattern": "a", "activations": "uint88"}]}), r"'uint88' is not an integer .*Did you mean 'uint8'"),
    (minimal(stpes=[]), r"Recipe 'mine.yaml' has no option 'stpes'\. Did you mean 'steps'\?"),
    (minimal(scheme={"wieghts": {"type": "int8"}}), r"has no option 'scheme\.wieghts'\. Did you mean '.*weights'\?"),
    (minimal(scheme={"overrides": [{"pattern": "a", "weight": "int4"}]}), r"'scheme\.overrides\.0\.weight'\. Did you mean '.*weights'"),
    (minimal(scheme={"first_layer": {"weihgts": "int4"}}), r"'scheme\.first_layer\.weihgts'\. Did you mean '.*weights'\?"),
    (minimal(preprocessing={"maen": [0.5]}), r"'preprocessing\.maen'\. Did you mean '.*mean'\?"),
    (minimal(scheme={"overrides": [{"weights": "int4"}]}), r"option 'scheme\.overrides\.0\.pattern' does not fit: Field required"),
    (minimal(scheme={"weights": {"type": "int8", "symmetric": "perhaps"}}), r"'scheme\.weights\.symmetric' does not fit.*got 'perhaps'"),
    ({"name": "mine"}, r"option 'steps' does not fit: Field required"),
    (minimal(steps="calibrate"), r"option 'steps' does not fit"),
    (minimal(steps=[3]), r"steps\.0"),
    (minimal(steps=[{"calibrate": {}, "round": {}}]), r"A step is written as its name or as \{name: \{option: value\}\}"),
    ([1, 2], r"must be a mapping with at least 'name' and 'steps'"),
    (None, r"must be a mapping"),
]


@pytest.mark.parametrize(("content", "message"), UNFIT, ids=range(len(UNFIT)))
def test_what_does_not_fit_is_said_in_the_users_words(content: Any, message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        Recipe.parse(content, "mine.yaml")


ODD_KEYS = ["name: a\nsteps: []\n1: 2\n", "name: a\nsteps: []\non: 2\n", "name: a\nsteps:\n- calibrate: {on: mse}\n"]


@pytest.mark.parametrize("content", ODD_KEYS, ids=["number", "on", "within a step"])
def test_a_key_that_is_no_text_is_refused_like_any_other(content: str, tmp_path: Path) -> None:
    """YAML reads ``on`` as True."""
    path = tmp_path / "odd.yaml"
    path.write_text(content, encoding="utf-8")
    with pytest.raises(RecipeError):
        Recipe.load(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"name: [unclosed", "is not YAML: while parsing"),
        (b"\xff\xfe\x00bad", "is not YAML"),
        (b"!!python/object/apply:os.getcwd []", "is not YAML: could not determine a constructor"),
        (b"", "must be a mapping"),
    ],
)
def test_a_broken_file_is_named(content: bytes, message: str, tmp_path: Path) -> None:
    path = tmp_path / "broken.yml"
    path.write_bytes(content)
    with pytest.raises(RecipeError, match=message) as caught:
        Recipe.load(path)
    assert "broken.yml" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_missing_file_and_a_folder_are_named(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"Cannot read the recipe '.*missing\.yaml': No such file"):
        Recipe.load(tmp_path / "missing.yaml")
    (tmp_path / "folder.yaml").mkdir()
    with pytest.raises(RecipeError, match=r"Cannot read the recipe '.*folder\.yaml': Is a directory"):
        Recipe.load(tmp_path / "folder.yaml")


def test_a_recipe_is_a_value() -> None:
    recipe = Recipe.load("int8")
    with pytest.raises(pydantic.ValidationError):
        recipe.name = "other"  # type: ignore[misc]
    assert recipe.with_types(weights="int4") != recipe
    assert recipe == Recipe.load("int8")


def test_with_types_changes_the_defaults_and_keeps_the_rest() -> None:
    recipe = Recipe.load("w4a8")
    changed = recipe.with_types(weights="int3", activations="uint4")
    assert (changed.scheme.weights.type, changed.scheme.activations.type) == ("int3", "uint4")
    assert changed.scheme.weights.per_channel
    assert changed.scheme.first_layer == recipe.scheme.first_layer
    assert changed.steps == recipe.steps
    assert recipe.with_types() == recipe
    assert Recipe.parse(yaml.safe_load(changed.to_yaml())).scheme == changed.scheme


@pytest.mark.parametrize("recipe", shipped())
@pytest.mark.parametrize("role", ["weights", "activations"])
def test_a_type_of_the_other_sign_takes_its_usual_symmetry(recipe: str, role: str) -> None:
    """An unsigned symmetric grid has no codes below 0: half of the weights would be lost."""
    signed, unsigned = (getattr(Recipe.load(recipe).with_types(**{role: kind}).scheme, role) for kind in ("int8", "uint8"))
    assert signed.symmetric
    assert not unsigned.symmetric


@pytest.mark.parametrize("symmetric", [True, False])
def test_a_type_of_the_same_sign_keeps_its_symmetry(symmetric: bool) -> None:
    recipe = Recipe.parse(minimal(scheme={"activations": {"type": "uint8", "symmetric": symmetric}}))
    assert recipe.with_types(activations="uint4").scheme.activations.symmetric is symmetric


def test_with_types_takes_float_and_refuses_nonsense() -> None:
    recipe = Recipe.load("int8")
    assert recipe.with_types(activations="float").scheme.activation_grid(Place("x")) is None
    for role in ("weights", "activations"):
        with pytest.raises(RecipeError, match=r"'unit8' is not an integer type.*Did you mean 'uint8'"):
            recipe.with_types(**{role: "unit8"})


def test_with_preprocessing() -> None:
    preprocessing = Preprocessing(mean=(0.5,), std=(0.25,))
    recipe = Recipe.load("int8").with_preprocessing(preprocessing)
    assert recipe.preprocessing == preprocessing
    assert Recipe.parse(yaml.safe_load(recipe.to_yaml())).preprocessing == preprocessing
    assert recipe.with_preprocessing(None) == Recipe.load("int8")


SCHEME = Scheme(
    weights=WeightScheme(type="int4", per_channel=True),
    first_layer=LayerTypes(weights="int8", activations="uint16"),
    last_layer=LayerTypes(weights="int7"),
    overrides=(
        Override(pattern="layer?.*", weights="int5"),
        Override(pattern="layer1.0.*", activations="uint4"),
        Override(pattern="layer1.0.conv2", weights="float"),
        Override(pattern="*.special", weights="int2"),
    ),
)


@pytest.mark.parametrize(
    ("place", "weights", "activations"),
    [
        (Place("head"), "int4", "uint8"),
        (Place("stem", is_first=True), "int8", "uint16"),
        (Place("head", is_last=True), "int7", "uint8"),
        (Place("only", is_first=True, is_last=True), "int7", "uint16"),  # the later entry wins, where it says anything
        (Place("layer1.0.conv1"), "int5", "uint4"),
        (Place("layer1.0.conv2"), None, "uint4"),
        (Place("layer1.0.special"), "int2", "uint4"),
        (Place("layer2.1", is_first=True), "int5", "uint16"),  # a pattern beats the place
        (Place("layer12.1"), "int4", "uint8"),  # ? is one character
        (Place("Layer1.0.conv1"), "int4", "uint8"),  # names are told apart by case
    ],
)
def test_later_entries_win(place: Place, weights: str | None, activations: str) -> None:
    grid, other = SCHEME.weight_grid(place, 0), SCHEME.activation_grid(place)
    assert (None if grid is None else grid.type_name) == weights
    assert other is not None
    assert other.type_name == activations


def test_the_first_layers_activations_reach_its_output() -> None:
    """``first_layer: {activations: ...}`` is for what leaves that layer."""
    network = nn.Sequential(nn.Conv2d(1, 2, 1), nn.Conv2d(2, 2, 1)).eval()
    graph = capture(network, (torch.zeros(2, 1, 4, 4),))
    scheme = Scheme(first_layer=LayerTypes(activations="uint4"))
    context = Context(scheme, Statistics(fingerprint(graph)), torch.Generator())
    placed = STEPS.create("place_quantizers").apply(graph, context)
    types = {name: quantizer.grid.type_name for name, quantizer in zoo.quantizers_of(placed).items()}
    assert types["0"] == "uint4"
    assert types["input"] == types["1"] == "uint8"


def test_grids_follow_the_scheme() -> None:
    grid = SCHEME.weight_grid(Place("x"), 1)
    assert grid is not None
    assert (grid.channel_axis, grid.symmetric) == (1, True)
    per_tensor = Scheme(weights=WeightScheme(type="int8", per_channel=False)).weight_grid(Place("x"), 1)
    assert per_tensor is not None
    assert per_tensor.channel_axis is None
    assert SCHEME.weight_grid(Place("x"), None).channel_axis is None  # type: ignore[union-attr]


def test_every_step_can_stand_in_a_recipe() -> None:
    recipe = Recipe(name="all", steps=tuple(STEPS))
    assert [step.name for step in recipe.build_steps()] == list(STEPS)


def test_a_partly_written_scheme_keeps_sound_defaults() -> None:
    """A symmetric unsigned grid would clip every negative activation; one scale for a whole 4-bit weight would lose it."""
    scheme = Recipe.parse(minimal(scheme={"weights": {"type": "int4"}, "activations": {"type": "uint8"}})).scheme
    assert scheme.weights.per_channel and scheme.weights.symmetric
    assert not scheme.activations.symmetric
