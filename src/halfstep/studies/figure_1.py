"""Figure 1: does the second-order cost of a rounding tell its accuracy?

    (13)  ΔwᵀHΔw           H: second derivative of the task loss in the first layer's weights
    (20)  E[(ΔW x)²]       the error of the layer's output

Nagel et al. 2020, section 3.1. Beyond the paper: (20) beside (13), and the cross-entropy beside the accuracy, which is coarser.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import ClassVar, final

from halfstep.studies.abstract import STUDIES, AbstractFigure
from halfstep.studies.draws import draws_in_words, measure_draws
from halfstep.studies.laboratory import Laboratory
from halfstep.studies.outcome import Entry, Outcome, Row
from halfstep.studies.plots import BLUE, ORANGE, canvas, save
from halfstep.studies.settings import Settings
from halfstep.studies.statistics import pearson, spearman

_COSTS = {"task_cost": "Cost (13), task loss", "local_cost": "Cost (20), output of the layer"}
_JUDGED = {"top1": "accuracy", "loss": "cross-entropy"}
_CLEAR = 0.5  # a rank correlation from which on it is called clear


@final
@STUDIES.register("figure-1")
class Figure1(AbstractFigure):
    """The cost of a rounding (13) against the accuracy it gives, over stochastic roundings of the first layer."""

    title: ClassVar[str] = "Figure 1: the cost (13) of a rounding against its accuracy"
    finding: ClassVar[str] = (
        "A clear correlation between the cost (13) and the validation accuracy of 100 stochastic roundings (no number is given)."
    )
    how: ClassVar[str] = (
        "The roundings of table 1. H is taken on calibration images without labels (Gauss-Newton, exact for this network where it"
        " is piecewise linear in the first layer); accuracy and cross-entropy on validation images."
    )

    def spent(self, settings: Settings) -> str:
        """Nothing is learned here."""
        return draws_in_words(settings)

    def run(self, laboratory: Laboratory) -> Outcome:
        """Correlations over the draws."""
        draws = measure_draws(laboratory, self.name)
        points = {name: [getattr(each, name) for each in draws.stochastic] for name in (*_COSTS, *_JUDGED)}
        rows, verdict = [], []
        for cost, label in _COSTS.items():
            for judged, word in _JUDGED.items():
                found = {"Pearson": pearson(points[cost], points[judged]), "Spearman": spearman(points[cost], points[judged])}
                entries = {column: Entry(() if value is None else (value,)) for column, value in found.items()}
                rows.append(Row(f"{label}, against {word}", entries, is_ours=(cost, judged) != ("task_cost", "top1")))
                if cost == "task_cost":
                    verdict.append(_sentence(word, found["Spearman"], judged == "loss"))
        points |= {f"nearest_{name}": [getattr(draws.nearest, name)] for name in (*_COSTS, *_JUDGED)}
        return replace(self.outcome(laboratory, ("Pearson", "Spearman"), tuple(rows)), verdict=tuple(verdict), points=points)

    def plot(self, outcome: Outcome, path: Path) -> None:
        """Accuracy over each of both costs."""
        figure, axes = canvas(2, outcome)
        for axis, (cost, label) in zip(axes, _COSTS.items(), strict=True):
            axis.scatter(outcome.points[cost], outcome.points["top1"], s=18, color=BLUE, alpha=0.7, label="stochastic", linewidths=0)
            nearest = outcome.points[f"nearest_{cost}"], outcome.points["nearest_top1"]
            axis.scatter(*nearest, s=60, color=ORANGE, marker="D", label="nearest", zorder=3)
            axis.set_xlabel(label)
            axis.set_ylabel("top-1 in %")
        axes[0].legend(frameon=False)
        save(figure, path)


def _sentence(word: str, correlation: float | None, rises: bool) -> str:
    if correlation is None:
        return f"Cost (13) against {word}: no correlation can be computed, all values are equal."
    is_right = correlation > 0 if rises else correlation < 0
    if is_right and abs(correlation) >= _CLEAR:
        judgement = "a clear correlation, as in the paper"
    elif is_right:
        judgement = "a weak correlation; the paper's is clear"
    else:
        judgement = "no correlation of the paper's sign"
    return f"Cost (13) against {word}: {judgement} (rank correlation {correlation:+.2f})."
