"""How well a network knows the images it was trained on, as they are, mirrored and moved, and warped, beside images it has never seen.

    python benchmarks/known_images.py

A network that is right on nearly all of its training images has little to teach there; warped they should be as hard as unseen ones. Also
what several networks know together, by the mean of their scores. One thread, one choice of images and of changes. Prints a table and writes
``benchmarks/results/known_images.json``.
"""

import json
import sys
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table

from halfstep.steps.training.augmentation import Augmentation
from harness.data import ROOT, data_folder, networks_module
from harness.machine import commit, machine_facts, versions
from harness.peer import trained_network

HERE = Path(__file__).resolve().parent
NETWORKS, SEED, NUM_IMAGES, BATCH = ("resnet20", "resnet32", "resnet56"), 0, 10_000, 250
TOGETHER = "together"


def images(split: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Normalized images [N, 3, 32, 32] of a split, `NUM_IMAGES` at most, and their labels."""
    module = networks_module()
    pixels, labels = module.load_split(split)
    chosen = torch.randperm(len(pixels), generator=torch.Generator().manual_seed(SEED))[:NUM_IMAGES].numpy()
    return module.normalize(pixels[chosen], NETWORKS[0]), torch.from_numpy(labels[chosen]).long()


def kinds() -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    """Images of each kind with their labels."""
    known, labels = images("train")
    found = {"training images": (known, labels)}
    for name, changes in (("mirrored, moved", Augmentation(flip=True, shift=4)), ("warped", Augmentation(flip=True, warp=1.0))):
        draws = changes.draw(len(known), torch.Generator().manual_seed(SEED))
        found[name] = (changes(known, draws), labels)
    return found | {"unseen images": images("validation")}


def scores_of(network: torch.nn.Module, x: torch.Tensor) -> torch.Tensor:
    """Scores [N, 10]."""
    with torch.no_grad():
        return torch.cat([network(part) for part in x.split(BATCH)])


def main() -> None:
    data_folder()
    networks = {name: trained_network(name) for name in NETWORKS}
    rows: dict[str, dict[str, float]] = {}
    for kind, (x, labels) in kinds().items():
        scores = {name: scores_of(network, x) for name, network in networks.items()}
        scores[TOGETHER] = sum(scores.values()) / len(networks)
        rows[kind] = {name: 100 * float((values.argmax(1) == labels).float().mean()) for name, values in scores.items()}
    table = Table("top-1 %", *NETWORKS, TOGETHER)
    for kind, row in rows.items():
        table.add_row(kind, *(f"{value:.2f}" for value in row.values()))
    Console().print(table)
    facts = {"machine": machine_facts(), "commit": commit(ROOT), "versions": versions(Path(sys.executable)), "seed": SEED}
    (HERE / "results" / "known_images.json").write_text(json.dumps({**facts, "images": NUM_IMAGES, "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
