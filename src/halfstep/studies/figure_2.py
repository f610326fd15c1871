"""Figure 2: how annealing β shapes the regularization, and how the rectified sigmoid differs from the sigmoid.

    f_reg(h) = 1 - |2h - 1|^β                            (24)
    h(V) = clip(σ(V) (ζ - γ) + γ, 0, 1)                  (23)

Nagel et al. 2020, section 3.3. Nothing is measured: these are the functions that the rounding ``adaround`` computes, at the β of its
schedule.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import ClassVar, final

import torch

from halfstep.rounding import ROUNDINGS
from halfstep.rounding.relaxation import Relaxation, annealed, regularization
from halfstep.studies.abstract import STUDIES, AbstractFigure
from halfstep.studies.laboratory import Laboratory
from halfstep.studies.outcome import Entry, Outcome, Row
from halfstep.studies.plots import BLUE, GREY, ORANGE, canvas, save
from halfstep.studies.settings import Settings

_SHARES = (0.0, 0.25, 0.5, 0.75, 1.0)  # of the annealing
_WATCHED = (0.05, 0.25, 0.4)  # values of h
_HALF_WIDTH = 6.0  # of the drawn range of V


@final
@STUDIES.register("figure-2")
class Figure2(AbstractFigure):
    """The regularization as β is annealed, and the rectified sigmoid."""

    title: ClassVar[str] = "Figure 2: annealing β in the regularization"
    finding: ClassVar[str] = (
        "A high β leaves most h free to move at first; a lower one costs every h that is neither 0 nor 1, and so drives it there."
    )
    how: ClassVar[str] = (
        "The functions (23) and (24) themselves, at the β that the default schedule of 'adaround' reaches after each quarter."
    )

    def spent(self, settings: Settings) -> str:
        """The defaults of the method alone."""
        return "default schedule"

    def run(self, laboratory: Laboratory) -> Outcome:
        """Values of the functions; no network is needed but to name the page."""
        method = ROUNDINGS.create("adaround")
        h, V = torch.linspace(0, 1, 201), torch.linspace(-_HALF_WIDTH, _HALF_WIDTH, 241)
        points: dict[str, list[float]] = {"h": h.tolist(), "V": V.tolist()}
        rows = []
        for share in _SHARES:
            beta = annealed(method.schedule, method.beta_start, method.beta_end, share)
            label = f"β = {beta:.1f}"
            points[label] = [_f_reg(value, beta) for value in points["h"]]
            costs = {f"f_reg at h = {value}": Entry((_f_reg(value, beta),)) for value in _WATCHED}
            rows.append(Row(f"{label}, {share:.0%} of the annealing", costs))
        points["rectified sigmoid"] = Relaxation(method.zeta, method.gamma).soft(V)[0].tolist()
        points["sigmoid"] = Relaxation(1.0, 0.0).soft(V)[0].tolist()
        first, last = rows[0].entries, rows[-1].entries
        watched = f"f_reg at h = {_WATCHED[1]}"
        verdict = f"As in the paper: h = {_WATCHED[1]} costs {first[watched].mean:.2f} at first and {last[watched].mean:.2f} in the end;"
        verdict += f" h = {_WATCHED[0]}, which is all but decided, {first[f'f_reg at h = {_WATCHED[0]}'].mean:.2f} and"
        verdict += f" {last[f'f_reg at h = {_WATCHED[0]}'].mean:.2f}."
        found = self.outcome(laboratory, tuple(first), tuple(rows))
        return replace(found, verdict=(verdict,), points=points)

    def plot(self, outcome: Outcome, path: Path) -> None:
        """f_reg over h, one line a β; h over V."""
        figure, (left, right) = canvas(2, outcome)
        labels = [name for name in outcome.points if name.startswith("β")]
        for index, label in enumerate(labels):
            share = index / (len(labels) - 1)
            left.plot(outcome.points["h"], outcome.points[label], color=BLUE, alpha=1 - 0.75 * share, label=label)
        left.set_xlabel("h(V)")
        left.set_ylabel("f_reg of one weight")
        left.legend(frameon=False)
        right.plot(outcome.points["V"], outcome.points["rectified sigmoid"], color=ORANGE, label="rectified sigmoid")
        right.plot(outcome.points["V"], outcome.points["sigmoid"], color=GREY, label="sigmoid")
        right.set_xlabel("V")
        right.set_ylabel("h(V)")
        right.legend(frameon=False)
        save(figure, path)


def _f_reg(h: float, beta: float) -> float:
    return float(regularization(torch.tensor([h], dtype=torch.float64), beta))
