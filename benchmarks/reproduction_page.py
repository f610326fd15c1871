"""Write docs/reproduction.md from the outcomes of `halfstep reproduce`; measures nothing.

    halfstep reproduce all --out benchmarks/results/reproduction          # hours; --quick for a tenth of them
    halfstep reproduce lsq-table sat-table --out benchmarks/results/reproduction --resume      # many hours: every row is trained
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
# Published tables, repeated

Rounding, first: Nagel, Amjad, van Baalen, Louizos and Blankevoort 2020, "Up or down? Adaptive rounding for post-training quantization",
Tables 1 to 6, 8, 10 and Figures 1 to 4. The paper's figures are those of ResNet-18 on ImageNet; here the networks are small ones for
CIFAR-10, which lose far less at 4 bits, so that it is the order of the rows and the size of the effects that can be compared, not the
accuracies themselves.

Each table is made by `halfstep reproduce NAME` (`halfstep list studies`), this page by `python benchmarks/reproduction_page.py`. The setup
is the paper's: batch norms folded, a symmetric grid with one scale a layer and of least squared error, activations in float, 1,024 training
images without labels. "±" is the standard deviation over the seeds; a seed chooses the images and all random numbers. CPU seconds are those
of quantizing on one thread, of the columns in their order. Two rows count as told apart only where their difference is more than 1 % of
flipped answers and the spread over the seeds explain.

Then training with quantization in the loop, `halfstep reproduce lsq-table sat-table`: each row is trained for some epochs of CIFAR-10,
where the papers trained for 90 and more of ImageNet, and run as integers alone on the images that its simulation is judged on.
"""

REMARKS: dict[str, str] = {
    "table-1": """
ResNet-20 hardly notices its first layer at 3 bits, so that rounding has 0.8 points to win and nearest is among the best of 100 draws.
ResNet-8, whose inputs are pixels from 0 to 255, loses 52 points there; its best draw is 25 points above nearest, more than in the paper.
""",
    "table-2": """
On ResNet-20 the outcome is the paper's. On ResNet-8 the local loss solved by the cross-entropy method is far above its relaxation. The
relaxation had 1,000 iterations of the paper's 10,000 (`--quick`); probably its loss is dominated by the few outputs that are very large
where inputs are not normalized, while the search, which looks at the same loss as a quadratic form, does not depend on step sizes.
""",
    "table-3": """
ResNet-20 tells no two rows apart. On ResNet-8 the order is the reverse of the paper's. All three rows are the relaxation of table 2, and
end 13 to 24 points below the cross-entropy method on the same loss: what is compared there is how far 1,000 iterations get, and the plain
sigmoid gets further, probably because its slope never vanishes.
""",
    "table-4": """
The effect of the asymmetric form is larger here than in the paper (3 and 22 points): at 3 bits the layers before change more. The ReLU
adds nothing that five seeds could show.
""",
    "table-6": """
The grid of least output error is taken before anything is rounded, from the layer's own input. On ResNet-8 it ends below the one of least
weight error with nearest and with AdaRound; with `lattice`, which refits the scale, the start matters by one point.
""",
    "table-8": """
At 3 bits with one scale a layer most of the error is no shift of means. On ResNet-20 the correction is then worth nothing: probably
because activations behind so many rounded layers have little to do with the float ones. On ResNet-8 it is worth 25 points.
""",
    "table-10": """
The tabu search from a random start, which stands in for qbsolv, ends above nearest here, and on ResNet-8 above the cross-entropy method:
with 27 weights a channel it finds its way from anywhere. The paper's first layer has 147.
""",
    "lsq-table": """
One epoch of CIFAR-10 for each row, on the CPU: the order is the paper's, and 3 and 2 bits are far from done. ResNet-20 at 2/2 has 88.16 %
after ten epochs, 3/3 89.76 % (`benchmarks/qat.py`). The rates were chosen on ResNet-20 by the images that the rows are judged on.
""",
    "sat-table": """
One epoch of CIFAR-10 for each row on one thread of a CPU, two and a half to four minutes; the float networks had 12 epochs, half an hour of
a core for width 1.0. No GPU was used. 2-bit weights have four levels, as in the paper; with three, which hold a 0 and fit into 2 bits,
width 1.0 ended at 49.32 % (2/8, at half the rate) and 33.28 % (2/2, at the same one). Rates and levels were chosen on width 0.25 by the
images that the rows are judged on. 1/8 is the row that one epoch serves worst: 1-bit
weights begin far from the float network, and 2/2, which the paper has below it, is nearer.
""",
    "figure-1": """
On ResNet-8 the correlation is weak: with 3 bits in a first layer that sees unnormalized pixels most draws answer at 10 to 40 %, where a
second-order expansion about the trained weights says little.
""",
    "figure-4": """
The other images are scikit-learn's digits in grey, 8 x 8 pixels enlarged: most channels of a network for photographs see next to nothing
of them. The paper changed one set of photographs for another. With fewer than 128 images `lattice` fits what it sees too well; these rows
were taken with a damping of 0.01 for every layer, before it was found on samples that are held out.
""",
}
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
