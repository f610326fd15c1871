"""Table 1: 100 stochastic roundings of the first layer beside nearest, all up and all down.

    P(up) = w / s - floor(w / s)

Gupta et al. 2015, as used in Nagel et al. 2020, section 2. The network is quantized in its first layer alone.
"""

from __future__ import annotations

from dataclasses import replace
from typing import ClassVar, final

from halfstep.studies.abstract import STUDIES, AbstractStudy
from halfstep.studies.draws import draws_in_words, measure_draws
from halfstep.studies.laboratory import Laboratory, Measurement
from halfstep.studies.outcome import Entry, Outcome, Row, order_sentences
from halfstep.studies.settings import Published, Settings


@final
@STUDIES.register("table-1")
class Table1(AbstractStudy):
    """Stochastic roundings of the first layer beside nearest, ceil and floor."""

    title: ClassVar[str] = "Table 1: rounding of the first layer"
    finding: ClassVar[str] = (
        "Rounding to nearest is not the best choice: 48 of 100 stochastic roundings of the first layer are better, the best by "
        "more than 10 points. Rounding everything up or everything down is catastrophic."
    )
    how: ClassVar[str] = "Only the first layer is quantized; nothing depends on calibration data."

    def spent(self, settings: Settings) -> str:
        """Nothing is learned here."""
        return draws_in_words(settings)

    def run(self, laboratory: Laboratory) -> Outcome:
        """Three fixed roundings and the draws."""
        draws = measure_draws(laboratory, self.name)
        top1 = [each.top1 for each in draws.stochastic]
        rows = (
            Row("Nearest", {"top-1": _entry([draws.nearest], 52.29)}),
            Row("Ceil", {"top-1": _entry([draws.ceil], 0.10)}),
            Row("Floor", {"top-1": _entry([draws.floor], 0.10)}),
            Row("Stochastic", {"top-1": _entry(draws.stochastic, 52.06, 5.52)}),
            Row("Stochastic (best)", {"top-1": Entry((max(top1),), Published(63.06))}),
        )
        found = self.outcome(laboratory, ("top-1",), rows)
        num_better = sum(value > draws.nearest.top1 for value in top1)
        gain = max(top1) - draws.nearest.top1
        sentences = [
            f"{num_better} of {len(top1)} draws are better than nearest (paper: 48 of 100); the best is {gain:+.2f} points from it "
            "(paper: +10.77).",
            *order_sentences(found),
        ]
        lost = laboratory.float_top1 - draws.nearest.top1
        sentences.append(f"Nearest loses {lost:.2f} points here (paper: 17.39): that is all there is to gain.")
        points = {"stochastic": top1, "nearest": [draws.nearest.top1]}
        return replace(found, verdict=tuple(sentences), points=points)


def _entry(measured: list[Measurement], mean: float, deviation: float | None = None) -> Entry:
    return Entry(tuple(each.top1 for each in measured), Published(mean, deviation))
