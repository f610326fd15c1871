"""From 8-bit images to what a network expects: resize, centre crop, times scale, minus mean, divided by std."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import pydantic
import torch
from PIL import Image
from torch.nn import functional as F

from halfstep.errors import DataError
from halfstep.registry import explain


class Preprocessing(pydantic.BaseModel):
    """How uint8 images become float32 inputs, in the order of the fields below but with ``size`` and ``crop`` first.

    Resizing and cropping stay on the 8-bit grid, so that a folder of images and an array of the same images give the same inputs to
    within one of 256 levels.
    """

    model_config = pydantic.ConfigDict(frozen=True, extra="forbid")

    scale: float = 1 / 255
    """Factor that brings 0..255 to the range ``mean`` and ``std`` are given in."""
    mean: tuple[float, ...] | None = None
    """Subtracted after scaling, one value a channel."""
    std: tuple[float, ...] | None = None
    """Divides after that, one value a channel."""
    size: int | None = pydantic.Field(default=None, gt=0)
    """The shorter side in pixels after resizing (bilinear with antialiasing); the aspect stays."""
    crop: int | None = pydantic.Field(default=None, gt=0)
    """Side in pixels of the square cut from the centre."""

    @pydantic.field_validator("scale")
    @classmethod
    def _scale_is_usable(cls, scale: float) -> float:
        if not (math.isfinite(scale) and scale > 0):
            raise ValueError("the scale must be a positive number")
        return scale

    @pydantic.field_validator("mean", "std")
    @classmethod
    def _values_are_finite(cls, values: tuple[float, ...] | None) -> tuple[float, ...] | None:
        if values is not None and (not values or not all(math.isfinite(value) for value in values)):
            raise ValueError("give one finite number a channel")
        return values

    @pydantic.model_validator(mode="after")
    def _fits_together(self) -> Preprocessing:
        if self.std is not None and min(self.std) <= 0:
            raise ValueError("every std must be positive")
        if self.mean is not None and self.std is not None and len(self.mean) != len(self.std):
            raise ValueError(f"mean has {len(self.mean)} values and std {len(self.std)}: give one a channel for both")
        if self.size is not None and self.crop is not None and self.crop > self.size:
            raise ValueError(f"crop {self.crop} is larger than size {self.size}")
        return self

    @classmethod
    def from_options(cls, options: Mapping[str, Any]) -> Preprocessing:
        """An instance with these options; `DataError` says which one does not fit."""
        try:
            return cls(**options)
        except pydantic.ValidationError as error:
            raise DataError(explain(error, "Preprocessing", cls)) from None

    def fit_image(self, image: Image.Image, where: str) -> npt.NDArray[np.uint8]:
        """One decoded image as RGB, resized and cropped: uint8 [H, W, 3]."""
        has_alpha = image.mode == "P" and "transparency" in image.info
        image = (image.convert("RGBA") if has_alpha else image).convert("RGB")
        width, height = image.size
        new_height, new_width = self._resized(height, width)
        if (new_height, new_width) != (height, width):
            image = image.resize((new_width, new_height), Image.Resampling.BILINEAR)
        if self.crop is not None:
            top, left = self._corner(new_height, new_width, where)
            image = image.crop((left, top, left + self.crop, top + self.crop))
        return np.array(image, dtype=np.uint8)

    def fit(self, images: torch.Tensor, where: str) -> torch.Tensor:
        """A batch of images, resized and cropped: uint8 [N, C, H, W] -> uint8 [N, C, H', W']."""
        height, width = self._resized(images.shape[2], images.shape[3])
        if (height, width) != tuple(images.shape[2:]):
            resized = F.interpolate(images.float(), size=(height, width), mode="bilinear", antialias=True)
            images = resized.round().clamp(0, 255).to(torch.uint8)
        if self.crop is not None:
            top, left = self._corner(height, width, where)
            images = images[:, :, top : top + self.crop, left : left + self.crop]
        return images

    def normalize(self, images: torch.Tensor, where: str) -> torch.Tensor:
        """uint8 [N, C, H, W] -> float32 [N, C, H, W], contiguous."""
        result = images.contiguous().float() * self.scale
        for values, name in ((self.mean, "mean"), (self.std, "std")):
            if values is None:
                continue
            if len(values) != images.shape[1]:
                raise DataError(
                    f"The preprocessing's {name} has {len(values)} values, but the images of {where} have {images.shape[1]} channels. "
                    f"Give one {name} a channel."
                )
            channels = torch.tensor(values, dtype=torch.float32).view(1, -1, 1, 1)
            result = result - channels if name == "mean" else result / channels
        return result

    def _resized(self, height: int, width: int) -> tuple[int, int]:
        """Height and width after resizing; the longer side is rounded down, as torchvision does."""
        if self.size is None:
            return height, width
        if height <= width:
            return self.size, max(self.size, int(self.size * width / height))
        return max(self.size, int(self.size * height / width)), self.size

    def _corner(self, height: int, width: int, where: str) -> tuple[int, int]:
        """Top and left of the centre crop."""
        assert self.crop is not None
        if min(height, width) < self.crop:
            raise DataError(
                f"An image of {where} is {height} x {width} pixels, smaller than the crop of {self.crop}. "
                f"Give a smaller crop, or a size of at least {self.crop} to resize to first."
            )
        return round((height - self.crop) / 2), round((width - self.crop) / 2)
