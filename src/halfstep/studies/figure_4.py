"""Figure 4: how much data AdaRound needs, and whether it has to be the network's own.

Nagel et al. 2020, section 5.1, "Optimization robustness to data": 256 to 2048 images of ImageNet, Pascal VOC and MS COCO.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import ClassVar, final

from halfstep.registry import Spec
from halfstep.studies.abstract import STUDIES, AbstractFigure, Line, entry_of
from halfstep.studies.laboratory import Laboratory
from halfstep.studies.outcome import Outcome, Row
from halfstep.studies.plots import BLUE, GREY, ORANGE, canvas, save
from halfstep.studies.settings import NEAREST, Cell, Settings
from halfstep.studies.statistics import mean

_SIZES = (32, 64, 128, 256, 512, 1024, 2048)
_ENOUGH = 256  # images with which the paper comes within 2 points of float
_OTHER = ", other images"


@final
@STUDIES.register("figure-4")
class Figure4(AbstractFigure):
    """Accuracy over the number of images, and with images of another data set."""

    title: ClassVar[str] = "Figure 4: how many images, and which"
    finding: ClassVar[str] = (
        "With 256 images AdaRound comes within 2 points of the float network; with images of another data set it loses less than "
        "0.2 points on average."
    )
    how: ClassVar[str] = (
        "The network's own training images, and images of another data set brought to their size and number of channels (by "
        "default scikit-learn's digits, which are much further from photographs than the paper's VOC and COCO are from ImageNet)."
        " 'lattice' is not in the paper."
    )

    def spent(self, settings: Settings) -> str:
        """The number of images is what varies."""
        return settings.words(with_images=False)

    def run(self, laboratory: Laboratory) -> Outcome:
        """AdaRound and lattice with 32 to 2048 images, as far as there are so many."""
        subject, lines = laboratory.subject, [Line("Nearest, no images", {"AdaRound": NEAREST, "lattice": NEAREST})]
        methods: dict[str, Spec] = {"AdaRound": laboratory.settings.learned("adaround"), "lattice": "lattice"}
        for size in _SIZES:
            cells: dict[str, Cell] = {}
            for is_other, data in ((False, subject.calibration), (True, subject.other)):
                if data is not None and (data.num_samples or size) >= size:
                    cells |= {name + _OTHER * is_other: Cell(spec, num_samples=size, is_other=is_other) for name, spec in methods.items()}
            if cells:
                lines.append(Line(f"{size} images", cells))
        measured = iter(laboratory.measure(self.name, [cell for line in lines for cell in line.cells.values()]))
        rows = tuple(Row(line.label, {name: entry_of(cell, next(measured)) for name, cell in line.cells.items()}) for line in lines)
        columns = tuple(dict.fromkeys(name for line in lines[1:] for name in line.cells)) or tuple(methods)
        found = self.outcome(laboratory, columns, rows)
        return replace(found, verdict=tuple(_verdict(found)))

    def plot(self, outcome: Outcome, path: Path) -> None:
        """Accuracy over the number of images, one line a column, the deviation over the seeds as bars."""
        figure, (axis,) = canvas(1, outcome)
        axis.axhline(outcome.float_top1, color=GREY, linestyle=":", label="float")
        for column in outcome.columns:
            known = [(int(row.label.split()[0]), row.entries[column]) for row in outcome.rows[1:] if column in row.entries]
            known = [(size, entry) for size, entry in known if entry.values]
            axis.errorbar(
                [size for size, _ in known],
                [entry.mean for _, entry in known],
                yerr=[entry.deviation or 0.0 for _, entry in known],
                color=ORANGE if column.startswith("lattice") else BLUE,
                linestyle="--" if column.endswith(_OTHER) else "-",
                marker="o",
                markersize=4,
                capsize=2,
                label=column,
            )
        axis.set_xscale("log", base=2)
        axis.set_xticks(_SIZES, [str(size) for size in _SIZES])
        axis.set_xlabel("images")
        axis.set_ylabel("top-1 in %")
        axis.legend(frameon=False)
        save(figure, path)


def _verdict(outcome: Outcome) -> list[str]:
    found = []
    sized = {row.label: row.entries for row in outcome.rows}
    enough = sized.get(f"{_ENOUGH} images", {}).get("AdaRound")
    if enough is not None and enough.mean is not None:
        lost = outcome.float_top1 - enough.mean
        agrees = "as in the paper" if lost <= 2 else "more than the paper's 2"
        found.append(f"With {_ENOUGH} images AdaRound is {lost:.2f} points below float: {agrees}.")
    for method in ("AdaRound", "lattice"):
        pairs = [(entries.get(method), entries.get(method + _OTHER)) for entries in sized.values()]
        losses = [own.mean - other.mean for own, other in pairs if own and other and own.mean is not None and other.mean is not None]
        if losses:
            paper = f" (paper: less than 0.2: {'the same' if mean(losses) < 0.2 else 'not so'})" if method == "AdaRound" else ""
            found.append(f"Images of another data set cost {method} {mean(losses):.2f} points on average{paper}.")
    return found
