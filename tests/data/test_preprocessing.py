"""`Preprocessing`: the order of its parts, its agreement with Pillow, and options that do not fit."""

from __future__ import annotations

from typing import Any

import numpy as np
import pydantic
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from halfstep.data import Preprocessing, as_data
from halfstep.errors import DataError


def test_values_are_scaled_then_shifted_then_divided() -> None:
    images = np.array([[[[0, 51, 255]]]], np.uint8)  # one pixel, three channels
    preprocessing = Preprocessing(scale=1 / 255, mean=(0.5, 0.1, 0.0), std=(0.25, 1.0, 2.0))
    (inputs,), labels = next(as_data(images, preprocessing).batches())
    assert labels is None
    assert inputs.dtype == torch.float32
    # Three float32 operations on values of at most 2: three half-ulps of 2^-23 each.
    torch.testing.assert_close(inputs.flatten(), torch.tensor([-2.0, 0.1, 0.5]), rtol=0, atol=3 * 2**-23)


@settings(deadline=None, max_examples=40)
@given(height=st.integers(4, 40), width=st.integers(4, 40), size=st.integers(3, 50), seed=st.integers(0, 1000), is_smooth=st.booleans())
def test_arrays_and_pillow_agree_within_one_level(height: int, width: int, size: int, seed: int, is_smooth: bool) -> None:
    """Pillow rounds to 8 bits after each of its two passes, torch once.

    The first rounding errs by 1/2, and the second pass weighs it with weights that sum to one: before the last rounding
    the two differ by 1/2 (and a little for Pillow's fixed-point weights), after it by at most one whole level.
    """
    image = np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)
    if is_smooth:
        image = np.broadcast_to(np.linspace(0, 255, width).astype(np.uint8)[None, :, None], image.shape).copy()
    preprocessing = Preprocessing(size=size, crop=min(size, 3))
    by_pillow = torch.from_numpy(preprocessing.fit_image(Image.fromarray(image), "x")).int()
    by_torch = preprocessing.fit(torch.from_numpy(image).permute(2, 0, 1).unsqueeze(0), "x")[0].permute(1, 2, 0).int()
    assert by_pillow.shape == by_torch.shape
    assert (by_pillow - by_torch).abs().max() <= 1


@pytest.mark.parametrize(("shape", "expected"), [((40, 60), (20, 30)), ((60, 40), (30, 20)), ((30, 41), (20, 27)), ((20, 20), (20, 20))])
def test_size_is_that_of_the_shorter_side(shape: tuple[int, int], expected: tuple[int, int]) -> None:
    images = torch.zeros(1, 3, *shape, dtype=torch.uint8)
    assert tuple(Preprocessing(size=20).fit(images, "x").shape[2:]) == expected


def test_the_crop_is_the_centre() -> None:
    images = torch.zeros(1, 1, 6, 8, dtype=torch.uint8)
    images[:, :, 2:4, 3:5] = 9
    assert bool((Preprocessing(crop=2).fit(images, "x") == 9).all())
    assert int((Preprocessing(crop=4).fit(images, "x") == 9).sum()) == 4


def test_constant_images_stay_constant() -> None:
    images = torch.full((2, 3, 17, 23), 200, dtype=torch.uint8)
    assert bool((Preprocessing(size=9, crop=8).fit(images, "x") == 200).all())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sise": 4}, "no option 'sise'. Did you mean 'size'"),
        ({"scale": 0.0}, "positive"),
        ({"scale": float("nan")}, "positive"),
        ({"mean": (float("inf"),)}, "finite"),
        ({"mean": ()}, "one finite number a channel"),
        ({"std": (1.0, 0.0)}, "every std must be positive"),
        ({"mean": (1.0,), "std": (1.0, 1.0)}, "mean has 1 values and std 2"),
        ({"size": 0}, "greater than 0"),
        ({"size": 10, "crop": 12}, "crop 12 is larger than size 10"),
    ],
)
def test_options_that_do_not_fit(options: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        Preprocessing.from_options(options)
    with pytest.raises(pydantic.ValidationError):
        Preprocessing(**options)


@pytest.mark.parametrize(
    ("preprocessing", "message"),
    [
        (Preprocessing(mean=(0.1, 0.2)), "mean has 2 values, but the images of the array .* have 3 channels"),
        (Preprocessing(std=(0.1,)), "std has 1 values"),
        (Preprocessing(crop=9), "8 x 8 pixels, smaller than the crop of 9"),
    ],
)
def test_what_does_not_fit_the_images(preprocessing: Preprocessing, message: str) -> None:
    with pytest.raises(DataError, match=message):
        list(as_data(np.zeros((2, 8, 8, 3), np.uint8), preprocessing).batches())


def test_it_goes_through_json_unchanged() -> None:
    preprocessing = Preprocessing(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225), size=256, crop=224)
    assert Preprocessing.from_options(preprocessing.model_dump(mode="json")) == preprocessing
