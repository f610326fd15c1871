"""Top-1 of a torch module that simulates its integers, with one batch function for every tool; and how many levels its weights have.

The levels are the proof of the rule for the first and last layer: they are counted in the weights that the evaluated module multiplies.
"""

from collections.abc import Callable

import torch

from harness.data import dataset_of, networks_module


def predictions(model: Callable[[torch.Tensor], torch.Tensor], network: str, limit: int | None = None) -> tuple[float, list[int]]:
    """Top-1 in percent on the first ``limit`` validation images (all: None), and the class given to each of them."""
    dataset = dataset_of(network)
    module = networks_module(dataset)
    images, labels = module.load_split("validation")
    images, labels = images[:limit], labels[:limit]
    found: list[int] = []
    with torch.no_grad():
        for start in range(0, len(images), dataset.batch_size):
            scores = model(module.normalize(images[start : start + dataset.batch_size], network))
            found += scores.argmax(1).tolist()
    right = sum(given == label for given, label in zip(found, labels.tolist(), strict=True))
    return 100.0 * right / len(found), found


def num_levels(weight: torch.Tensor, channel_axis: int | None) -> int:
    """Different values in ``weight``; with an axis, the largest number in one channel of it.

    Tools that store ``codes * scale`` round once more: values closer than 1e-4 of the largest are the same level.
    """
    rows = weight.detach().reshape(1, -1) if channel_axis is None else weight.detach().movedim(channel_axis, 0).flatten(1)
    return max(_count(row) for row in rows)


def _count(row: torch.Tensor) -> int:
    ordered = row.double().sort().values
    return 1 + int((ordered.diff() > 1e-4 * ordered.abs().max()).sum())


def describe_levels(levels: dict[str, int]) -> dict[str, int]:
    """Of the layers in order: the first, the most of those between, the last."""
    counts = list(levels.values())
    return {"first": counts[0], "between": max(counts[1:-1]), "last": counts[-1]}
