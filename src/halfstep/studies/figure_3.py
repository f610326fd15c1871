"""Figure 3: where h starts and where it ends: which weights are rounded otherwise than to nearest.

    before:  w / s - floor(w / s)          after:  code - floor(w / s), 0 or 1

Nagel et al. 2020, section 3.3. The upper left and the lower right quadrant hold the weights that AdaRound rounds away from nearest.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, final

import torch
from torch import Tensor
from torch.fx import GraphModule

from halfstep.graph.edges import behind_quantizer, quantizer_of
from halfstep.graph.edit import attribute
from halfstep.graph.operators import WeightedLayer, weighted_layers
from halfstep.quantizers import UniformQuantizer
from halfstep.studies.abstract import STUDIES, AbstractFigure
from halfstep.studies.laboratory import Laboratory
from halfstep.studies.outcome import Entry, Outcome, Row
from halfstep.studies.plots import BLUE, GREY, ORANGE, canvas, save
from halfstep.studies.settings import Cell, Settings
from halfstep.studies.table_2 import LOCAL
from halfstep.workflow.result import Result

_HALF = 0.5
_UP, _DOWN = "up, nearest is down", "down, nearest is up"
_COLUMNS = ("away from nearest, %", f"{_UP}, %", f"{_DOWN}, %")


@dataclass(frozen=True)
class Moves:
    """before: the fraction of each weight. after: whether it went up. Weights with a code on one side only are left out."""

    before: Tensor
    after: Tensor

    def shares(self) -> tuple[float, float]:
        """In percent of the weights: (up although nearest is down, down although nearest is up)."""
        up, down = (self.before < _HALF) & self.after, (self.before > _HALF) & ~self.after
        return 100 * float(up.double().mean()), 100 * float(down.double().mean())


@final
@STUDIES.register("figure-3")
class Figure3(AbstractFigure):
    """h before and after AdaRound: the weights that are not rounded to nearest."""

    title: ClassVar[str] = "Figure 3: h before and after the optimization"
    finding: ClassVar[str] = "All h end at 0 or 1, and many weights are rounded otherwise than to nearest."
    how: ClassVar[str] = (
        "All layers are rounded by (21), with one seed; the picture shows the first layer. What is drawn upward is the final "
        "code, 0 for down and 1 for up, with a little noise so that points can be told apart."
    )

    def spent(self, settings: Settings) -> str:
        """One run is enough for a picture."""
        return settings.words(with_seeds=False)

    def run(self, laboratory: Laboratory) -> Outcome:
        """One run."""
        laboratory.progress(self.name, 0, 1)
        seen = laboratory.look("moves", _look, Cell(laboratory.settings.learned("adaround", LOCAL)))
        laboratory.progress(self.name, 1, 1)
        rows = [_row(layer["name"], layer["up"], layer["down"]) for layer in seen["layers"]]
        total = sum(layer["num_weights"] for layer in seen["layers"])
        up, down = (sum(layer[side] * layer["num_weights"] for layer in seen["layers"]) / total for side in ("up", "down"))
        verdict = f"{up + down:.1f} % of all weights are rounded otherwise than to nearest: many, as in the paper (which gives no number)."
        found = self.outcome(laboratory, _COLUMNS, (_row("all layers", up, down), *rows))
        return replace(found, verdict=(verdict,), points={"before": seen["before"], "after": seen["after"]})

    def plot(self, outcome: Outcome, path: Path) -> None:
        """After over before, with the quadrants."""
        figure, (axis,) = canvas(1, outcome)
        before, after = torch.tensor(outcome.points["before"]), torch.tensor(outcome.points["after"])
        noise = 0.06 * (torch.rand(len(after), generator=torch.Generator().manual_seed(0)) - _HALF)
        is_away = (before > _HALF) != (after > _HALF)
        for chosen, color, label in ((~is_away, GREY, "as nearest"), (is_away, ORANGE, "away from nearest")):
            axis.scatter(before[chosen], (after + noise)[chosen], s=12, color=color, alpha=0.7, linewidths=0, label=label)
        axis.axvline(_HALF, color=BLUE, linewidth=0.8)
        axis.axhline(_HALF, color=BLUE, linewidth=0.8)
        axis.set_xlabel("h before: w / s − floor(w / s)")
        axis.set_ylabel("h after")
        axis.legend(frameon=False, loc="center left")
        save(figure, path)


def moves(layer: WeightedLayer, model: GraphModule, float_layer: WeightedLayer, float_model: GraphModule) -> Moves:
    """Of one quantized layer."""
    quantizer = quantizer_of(layer.weight)
    assert isinstance(quantizer, UniformQuantizer)
    grid = quantizer.grid
    weight = attribute(float_model, behind_quantizer(float_layer.weight)).detach()
    step = grid.along(quantizer.scale, weight.shape)
    codes = quantizer.quantize(attribute(model, behind_quantizer(layer.weight)).detach()).codes
    position = weight / step + grid.along(quantizer.zero_point, weight.shape)
    below = torch.floor(position)
    is_open = (below >= grid.minimum) & (below < grid.maximum) & (position > below)
    return Moves((position - below)[is_open], (codes > below)[is_open])


def _look(result: Result, seconds: float) -> dict[str, Any]:
    layers: list[dict[str, Any]] = []
    pairs = zip(weighted_layers(result.model), weighted_layers(result.float_model), strict=True)
    first: Moves | None = None
    for layer, float_layer in pairs:
        if not isinstance(quantizer_of(layer.weight), UniformQuantizer):
            continue
        found = moves(layer, result.model, float_layer, result.float_model)
        first = first or found
        up, down = found.shares()
        layers.append({"name": layer.name, "up": up, "down": down, "num_weights": len(found.before)})
    assert first is not None
    return {"layers": layers, "before": first.before.tolist(), "after": first.after.float().tolist(), "cpu_seconds": seconds}


def _row(label: str, up: float, down: float) -> Row:
    return Row(label, dict(zip(_COLUMNS, (Entry((up + down,)), Entry((up,)), Entry((down,))), strict=True)))
