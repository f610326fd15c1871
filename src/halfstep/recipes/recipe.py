"""A recipe: the scheme, the ordered steps and the preprocessing of the inputs; YAML on disk, an immutable object in code."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pydantic
import yaml

from halfstep.data import Preprocessing
from halfstep.errors import RecipeError, did_you_mean
from halfstep.recipes.plain_yaml import read_yaml
from halfstep.registry import Spec, explain, parse_spec
from halfstep.steps import STEPS, AbstractStep, Scheme
from halfstep.targets import target_named

_FOLDER = Path(__file__).parent


def shipped() -> list[str]:
    """The names of the recipes that come with halfstep."""
    return sorted(path.stem for path in _FOLDER.glob("*.yaml"))


class Recipe(pydantic.BaseModel):
    """steps: each the name of a step or ``{name: {option: value}}``, applied in order. preprocessing: None for inputs that need none."""

    model_config = pydantic.ConfigDict(frozen=True, extra="forbid")

    name: str
    description: str = ""
    preprocessing: Preprocessing | None = None
    scheme: Scheme = Scheme()
    steps: tuple[Spec, ...]

    @pydantic.field_validator("steps")
    @classmethod
    def _are_steps(cls, value: tuple[Spec, ...]) -> tuple[Spec, ...]:
        for spec in value:
            STEPS.create(spec)
        return value

    @classmethod
    def load(cls, name_or_path: str | Path) -> Recipe:
        """A shipped recipe by its name, or a YAML file by its path; `RecipeError` says what does not fit."""
        path = Path(name_or_path)
        if path.suffix not in (".yaml", ".yml"):
            if str(name_or_path) not in shipped():
                hint = did_you_mean(str(name_or_path), shipped())
                raise RecipeError(f"Unknown recipe '{name_or_path}'. {hint} A recipe of your own is a path that ends in .yaml.")
            path = _FOLDER / f"{name_or_path}.yaml"
        try:
            content = read_yaml(path)
        except OSError as error:
            raise RecipeError(f"Cannot read the recipe '{path}': {error.strerror}.") from error
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            raise RecipeError(f"The recipe '{path}' is not YAML: {' '.join(str(error).split())}.") from error
        return cls.parse(content, str(name_or_path))

    @classmethod
    def parse(cls, content: Any, where: str = "recipe") -> Recipe:
        """A recipe from plain values, as YAML holds them."""
        if not isinstance(content, dict):
            raise RecipeError(f"The recipe '{where}' must be a mapping with at least 'name' and 'steps'.")
        try:
            return cls.model_validate(content)
        except pydantic.ValidationError as error:
            raise RecipeError(explain(error, f"Recipe '{where}'", cls)) from None

    def to_yaml(self, without: Sequence[str] = ()) -> str:
        """The whole recipe, defaults written out, so that a later version of halfstep reads what this one ran.

        without: options that are left out of every step.
        """
        content = self.model_dump(mode="json")
        content["steps"] = [_left_out(step.full_spec(), without) for step in self.build_steps()]
        return yaml.safe_dump(content, sort_keys=False, allow_unicode=True, width=120)

    def build_steps(self) -> list[AbstractStep]:
        """The steps as objects."""
        return [STEPS.create(spec) for spec in self.steps]

    def with_types(self, weights: str | None = None, activations: str | None = None) -> Recipe:
        """The same recipe with other default types ("int4", "float"); exceptions for single layers stay."""
        scheme = self.scheme
        if weights is not None:
            scheme = scheme.model_copy(update={"weights": self._retyped("weights", weights)})
        if activations is not None:
            scheme = scheme.model_copy(update={"activations": self._retyped("activations", activations)})
        return self.model_copy(update={"scheme": scheme})

    def with_group_size(self, group_size: int) -> Recipe:
        """The same recipe with a scale for so many inputs of a linear layer's output channel, 16, 32, 64 ...; 0: one for all of them.

        Exceptions for single layers stay.
        """
        return self._with_scheme({"weights": self.scheme.weights.model_dump() | {"group_size": group_size}})

    def with_requantization(self, mode: str) -> Recipe:
        """The same recipe for integer programs of another requantization (`halfstep.integer.MODES`)."""
        return self._with_scheme({"requantization": mode})

    def with_target(self, name: str) -> Recipe:
        """The same recipe for the files of another runtime (`halfstep.targets`)."""
        return self.model_copy(update={"scheme": self.scheme.model_copy(update={"target": target_named(name).name})})

    def with_preprocessing(self, preprocessing: Preprocessing | None) -> Recipe:
        """The same recipe for inputs that need this preprocessing."""
        return self.model_copy(update={"preprocessing": preprocessing})

    def with_step(self, name: str, options: Mapping[str, Any]) -> Recipe:
        """The same recipe with these options of its steps called ``name``; `RecipeError` where it has none, or one does not fit."""
        self.until(name)
        specs = [parse_spec(spec, "step") for spec in self.steps]
        changed = [STEPS.create({found: own | dict(options) if found == name else own}).spec() for found, own in specs]
        return self.model_copy(update={"steps": tuple(changed)})

    def until(self, name: str) -> Recipe:
        """The same recipe without its first step called ``name`` and all behind it; `RecipeError` where it has none."""
        position = next((index for index, spec in enumerate(self.steps) if parse_spec(spec, "step")[0] == name), None)
        if position is None:
            raise RecipeError(f"The recipe '{self.name}' has no step '{name}': choose one that has, or add the step to yours.")
        return self.model_copy(update={"steps": self.steps[:position]})

    def _with_scheme(self, changes: dict[str, Any]) -> Recipe:
        try:
            scheme = Scheme.model_validate(self.scheme.model_dump() | changes)
        except pydantic.ValidationError as error:
            raise RecipeError(explain(error, f"Recipe '{self.name}'", Scheme)) from None
        return self.model_copy(update={"scheme": scheme})

    def _retyped(self, role: str, type_name: str) -> Any:
        """The tensor scheme of ``role`` with another type; one of another sign, or in place of float, takes its usual symmetry."""
        old = getattr(self.scheme, role)
        options = old.model_dump() | {"type": type_name}
        if type_name != "float" and (old.type == "float" or type_name.startswith("u") != old.type.startswith("u")):
            options["symmetric"] = not type_name.startswith("u")
        try:
            return type(old)(**options)
        except pydantic.ValidationError as error:
            raise RecipeError(explain(error, role, type(old))) from None


def _left_out(spec: Spec, names: Sequence[str]) -> Spec:
    """``spec`` without the options ``names``."""
    if isinstance(spec, str):
        return spec
    return {step: {key: value for key, value in options.items() if key not in names} for step, options in spec.items()}
