"""The digits: the split is what was published, its parts are disjoint and have the classes in proportion."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest
from sklearn.datasets import load_digits

from halfstep.demo.digits import BOUNDS, load_split, split_indices
from halfstep.errors import DataError

FINGERPRINTS = {
    "test": "4f3f564a38bdf488",
    "calibration": "c12a8d45cf594fa3",
    "train": "63ae041a8ea056e1",
}


@pytest.mark.parametrize(("split", "count"), [("train", 1041), ("calibration", 256), ("test", 500)])
def test_shapes_and_values(split: str, count: int) -> None:
    images, labels = load_split(split)
    assert (images.shape, images.dtype) == ((count, 8, 8, 1), np.uint8)
    assert (labels.shape, labels.dtype) == ((count,), np.int64)
    assert set(np.unique(images)) == {15 * value for value in range(17)}


@pytest.mark.parametrize("split", FINGERPRINTS)
def test_the_split_never_changes(split: str) -> None:
    images, labels = load_split(split)
    assert hashlib.sha256(images.tobytes() + labels.astype("<i8").tobytes()).hexdigest()[:16] == FINGERPRINTS[split]


def test_the_parts_are_disjoint_and_cover_everything() -> None:
    labels = load_digits().target
    parts = split_indices(tuple(labels.tolist()))
    assert sorted(np.concatenate(list(parts.values())).tolist()) == list(range(1797))


def test_each_part_has_the_classes_in_proportion() -> None:
    whole = np.bincount(load_digits().target) / 1797
    for split in BOUNDS:
        labels = load_split(split)[1]
        # A stretch of evenly spread samples holds a class within one of its share; its two ends are cut from ten such
        # combs at once, which moves them by at most one more.
        assert np.abs(np.bincount(labels) - whole * len(labels)).max() <= 2


def test_images_and_labels_belong_together() -> None:
    digits = load_digits()
    known = {image.astype(np.uint8).tobytes(): label for image, label in zip(digits.images, digits.target, strict=True)}
    for image, label in zip(*load_split("test"), strict=True):
        assert known[(image[..., 0] // 15).tobytes()] == label


def test_an_unknown_part() -> None:
    with pytest.raises(DataError, match=r"no part 'tests'. Did you mean 'test'"):
        load_split("tests")
