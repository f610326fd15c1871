"""Write docs/reproduction.md from the outcomes of `halfstep reproduce`; measures nothing.

    halfstep reproduce all --out benchmarks/results/reproduction          # hours; --quick for a tenth of them
    python benchmarks/reproduction_page.py

Every folder below results/reproduction is a network; its pictures are copied to docs/reproduction/.
"""

import shutil
import sys
from dataclasses import replace
from pathlib import Path

from halfstep.studies import Outcome
from halfstep.studies.page import page, read_all

HERE = Path(__file__).resolve().parent
RESULTS, DOCS = HERE / "results" / "reproduction", HERE.parent / "docs"
PICTURES = "reproduction"  # below docs

INTRODUCTION = """
# The AdaRound paper, repeated

Nagel, Amjad, van Baalen, Louizos and Blankevoort 2020, "Up or down? Adaptive rounding for post-training quantization", Tables 1 to 6, 8, 10
and Figures 1 to 4. The paper's figures are those of ResNet-18 on ImageNet; here the networks are small ones for CIFAR-10, which lose far
less at 4 bits, so that it is the order of the rows and the size of the effects that can be compared, not the accuracies themselves.

Each table is made by `halfstep reproduce NAME` (`halfstep list studies`), this page by `python benchmarks/reproduction_page.py`. The setup
is the paper's: batch norms folded, a symmetric grid with one scale a layer and of least squared error, activations in float, 1,024 training
images without labels. "±" is the standard deviation over the seeds; a seed chooses the images and all random numbers. CPU seconds are those
of quantizing on one thread, of the columns in their order. Two rows count as told apart only where their difference is more than 1 % of
flipped answers and the spread over the seeds explain.
"""

REMARKS: dict[str, str] = {}
"""Where our outcome differs from the paper's, and why: by the name of the study."""


def with_picture(outcome: Outcome, path: Path) -> tuple[Outcome, str | None]:
    """The outcome and the link to its picture, which is copied beside the page."""
    if outcome.plot is None:
        return outcome, None
    name = f"{outcome.network}-{outcome.plot}"
    (DOCS / PICTURES).mkdir(exist_ok=True)
    shutil.copyfile(path.parent / outcome.plot, DOCS / PICTURES / name)
    return replace(outcome, plot=name), f"{PICTURES}/{name}"


def main() -> None:
    found = read_all(RESULTS) if RESULTS.is_dir() else []
    if not found:
        sys.exit(f"No outcomes below '{RESULTS}': run 'halfstep reproduce all --out {RESULTS}' first.")
    outcomes = [with_picture(outcome, path) for outcome, path in found]
    (DOCS / "reproduction.md").write_text(page(outcomes, INTRODUCTION, REMARKS), encoding="utf-8")


if __name__ == "__main__":
    main()
