"""scikit-learn's 1,797 scanned digits of 8x8 pixels, split once and for all: 1,041 train, 256 calibration, 500 test images.

The source is the UCI "Optical Recognition of Handwritten Digits" test set, with values 0..16. They are stored here times 15,
as 8-bit images with values 0..240; `PREPROCESSING` brings them to 0..1. The three parts are disjoint, and each has the classes in their
proportions of the whole. The split is part of what is published: it must never change.
"""

from __future__ import annotations

from functools import cache

import numpy as np
import numpy.typing as npt

from halfstep.data import Preprocessing
from halfstep.errors import DataError, did_you_mean

Images = npt.NDArray[np.uint8]
Labels = npt.NDArray[np.int64]

PREPROCESSING = Preprocessing(scale=1 / 240)
SPLIT_SEED = 20250101
BOUNDS = {"test": (0, 500), "calibration": (500, 756), "train": (756, 1797)}


def load_split(split: str) -> tuple[Images, Labels]:
    """Images [N, 8, 8, 1] and labels [N] of ``train``, ``calibration`` or ``test``; `DataError` for another name."""
    if split not in BOUNDS:
        raise DataError(f"The digits have no part '{split}'. {did_you_mean(split, BOUNDS)}")
    from sklearn.datasets import load_digits  # a second to import, and wanted only here

    digits = load_digits()
    images = np.rint(digits.images * 15).astype(np.uint8)[..., np.newaxis]
    labels = digits.target.astype(np.int64)
    chosen = split_indices(tuple(labels.tolist()))[split]
    return images[chosen], labels[chosen]


@cache
def split_indices(labels: tuple[int, ...]) -> dict[str, npt.NDArray[np.int64]]:
    """Ascending sample indices of each part.

    Each class is shuffled and spread evenly over 0..1; sorting all samples by that position gives an order of which
    every stretch has the classes in proportion, and the parts are three stretches of it.
    """
    classes = np.asarray(labels)
    random = np.random.RandomState(SPLIT_SEED)  # its stream is frozen by NumPy, unlike default_rng's
    position = np.empty(len(classes))
    for digit in np.unique(classes):
        members = random.permutation(np.flatnonzero(classes == digit))
        position[members] = (np.arange(len(members)) + 0.5) / len(members)
    order = np.lexsort((classes, position))
    return {split: np.sort(order[start:stop]) for split, (start, stop) in BOUNDS.items()}
