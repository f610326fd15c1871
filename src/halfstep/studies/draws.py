"""Stochastic roundings of the first layer, each with its accuracy, its loss and its costs: what table 1 and figure 1 share."""

from __future__ import annotations

from dataclasses import dataclass, replace

from halfstep.studies.laboratory import Laboratory, Measurement
from halfstep.studies.settings import Cell, Settings

_FIRST = Cell("nearest", only_first=True, is_random=False, with_costs=True)


@dataclass(frozen=True)
class Draws:
    """nearest, ceil, floor: one run each. stochastic: one a draw."""

    nearest: Measurement
    ceil: Measurement
    floor: Measurement
    stochastic: list[Measurement]


def measure_draws(laboratory: Laboratory, study: str) -> Draws:
    """As many draws as the settings say; only the first layer is quantized."""
    fixed = [replace(_FIRST, method=method) for method in ("nearest", "ceil", "floor")]
    drawn = replace(_FIRST, method="stochastic", is_random=True, num_seeds=laboratory.settings.num_draws)
    (nearest,), (ceil,), (floor,), stochastic = laboratory.measure(study, [*fixed, drawn])
    return Draws(nearest, ceil, floor, stochastic)


def draws_in_words(settings: Settings) -> str:
    """The settings that matter to them."""
    return f"{settings.bits}-bit weights of the first layer, {settings.num_draws} draws, costs on {settings.num_samples} images"
