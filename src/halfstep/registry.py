"""Names for methods: one registry a kind (range, rounding, quantizer, step), filled by ``@REGISTRY.register("name")``.

A method written in a recipe is its name, or a one-entry mapping from its name to its options::

    calibrate
    {calibrate: {activations: percentile}}

Options are the fields of a `Method`, a frozen pydantic model: unknown or ill-typed ones are refused with the way out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, ClassVar, Generic, TypeVar

import pydantic

from halfstep.errors import RecipeError, did_you_mean

Spec = str | Mapping[str, Any]
T = TypeVar("T")
C = TypeVar("C", bound=type)


class Method(pydantic.BaseModel):
    """Base of everything with options: immutable, no unknown fields, comparable, printable."""

    model_config = pydantic.ConfigDict(frozen=True, extra="forbid", arbitrary_types_allowed=True)
    name: ClassVar[str] = ""

    @classmethod
    def from_options(cls, options: Mapping[str, Any]) -> Method:
        """An instance with these options; `RecipeError` names the option that is unknown or does not fit."""
        try:
            return cls.model_validate(dict(options))
        except pydantic.ValidationError as error:
            raise RecipeError(explain(error, f"'{cls.name}'", cls)) from None

    def spec(self) -> Spec:
        """The shortest way to write this method in a recipe: options at their defaults are left out."""
        options = self.model_dump(mode="json", exclude_defaults=True)
        return {self.name: options} if options else self.name

    def full_spec(self) -> Spec:
        """The same with every option written out."""
        options = self.model_dump(mode="json")
        return {self.name: options} if options else self.name


def explain(error: pydantic.ValidationError, where: str, model: type[pydantic.BaseModel]) -> str:
    """The first complaint of pydantic in a user's words."""
    first = error.errors()[0]
    field = ".".join(str(part) for part in first["loc"]) or "value"
    if first["type"] in ("extra_forbidden", "invalid_key"):
        return f"{where} has no option '{field}'. {did_you_mean(str(first['loc'][-1]), _model_at(model, error).model_fields)}"
    message = first["msg"].removeprefix("Value error, ")
    return f"{where}: option '{field}' does not fit: {message} (got {first['input']!r})."


def _model_at(model: type[pydantic.BaseModel], error: pydantic.ValidationError) -> type[pydantic.BaseModel]:
    """The model in whose fields the first complaint of ``error`` lies, for suggestions."""
    for part in error.errors()[0]["loc"][:-1]:
        field = model.model_fields.get(str(part))
        if field is None:
            continue
        inner = [kind for kind in (field.annotation, *getattr(field.annotation, "__args__", ())) if isinstance(kind, type)]
        model = next((kind for kind in inner if issubclass(kind, pydantic.BaseModel)), model)
    return model


class Registry(Generic[T]):
    """A dictionary from names to classes of one kind that answers an unknown name with the closest known one."""

    def __init__(self, kind: str, attribute: str = "name") -> None:
        self.kind = kind
        self._attribute = attribute  # of a class, that holds the name it is registered under
        self._classes: dict[str, type[T]] = {}

    def register(self, name: str) -> Callable[[C], C]:
        """Class decorator: enter the class under ``name``."""

        def enter(cls: C) -> C:
            if name in self._classes:
                raise ValueError(f"{self.kind} '{name}' is registered twice")
            setattr(cls, self._attribute, name)
            self._classes[name] = cls
            return cls

        return enter

    def __getitem__(self, name: str) -> type[T]:
        if name not in self._classes:
            raise RecipeError(f"Unknown {self.kind} '{name}'. {did_you_mean(name, self._classes)}")
        return self._classes[name]

    def __iter__(self) -> Iterator[str]:
        return iter(sorted(self._classes))

    def __len__(self) -> int:
        return len(self._classes)

    def create(self, spec: Spec) -> Any:
        """An instance from its written form; for registries whose classes are `Method`."""
        name, options = parse_spec(spec, self.kind)
        return self[name].from_options(options)  # type: ignore[attr-defined]

    def checked(self, spec: Spec) -> Spec:
        """``spec`` itself, as a validator of options that hold one; `RecipeError` where it names no method or no option of it."""
        self.create(spec)
        return spec


def parse_spec(spec: Spec, kind: str) -> tuple[str, dict[str, Any]]:
    """``"mse"`` -> ("mse", {}); ``{"mse": {"num_candidates": 50}}`` -> ("mse", {"num_candidates": 50})."""
    if isinstance(spec, str):
        return spec, {}
    if isinstance(spec, Mapping) and len(spec) == 1:
        name, options = next(iter(spec.items()))
        if isinstance(name, str) and (options is None or isinstance(options, Mapping)):
            return name, dict(options or {})
    raise RecipeError(f"A {kind} is written as its name or as {{name: {{option: value}}}}, not as {spec!r}.")
