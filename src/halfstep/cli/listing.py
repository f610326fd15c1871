"""``halfstep list``: every method and recipe by name, with the first line of what it says about itself."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Annotated, Any

import typer

from halfstep.cli import options
from halfstep.cli.terminal import output, say, table, write_json
from halfstep.errors import HalfstepError, did_you_mean
from halfstep.quantizers import QUANTIZERS
from halfstep.ranges import RANGES
from halfstep.recipes.recipe import Recipe, shipped
from halfstep.registry import Registry
from halfstep.rounding import ROUNDINGS
from halfstep.steps import STEPS
from halfstep.studies import STUDIES

EXAMPLE = "Example: halfstep list ranges"
REGISTRIES: Mapping[str, Registry[Any]] = {
    "ranges": RANGES,
    "roundings": ROUNDINGS,
    "quantizers": QUANTIZERS,
    "steps": STEPS,
    "studies": STUDIES,
}
KINDS = (*REGISTRIES, "recipes")


def listing(
    kind: Annotated[
        str | None, typer.Argument(metavar="[KIND]", help=f"One of: {', '.join(KINDS)}. Default: all.", show_default=False)
    ] = None,
    json: options.Json = None,
) -> None:
    """List the methods and recipes there are."""
    if kind is not None and kind not in KINDS:
        raise HalfstepError(f"There is no list of '{kind}'. {did_you_mean(kind, KINDS)}")
    lists = {name: entries(name) for name in KINDS if kind in (None, name)}
    if json is not None:
        write_json(lists, json)
    for name, found in lists.items():
        shown = table(name, "")
        for entry, summary in found.items():
            shown.add_row(entry, summary)
        output().print(shown) if found else say(f"{name}: none yet")


def entries(kind: str) -> dict[str, str]:
    """Names of one kind, each with the first line of its description."""
    if kind == "recipes":
        return {name: Recipe.load(name).description for name in shipped()}
    return {name: first_line(REGISTRIES[kind][name]) for name in REGISTRIES[kind]}


def first_line(described: object) -> str:
    """The first line of a docstring."""
    return (inspect.getdoc(described) or "").partition("\n")[0]
