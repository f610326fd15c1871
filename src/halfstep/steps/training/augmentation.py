"""Images as they might also have been taken: mirrored, moved, turned, scaled and sheared at random.

    y(r) = x(A r + m)        A = F [[s t cos a, -s sin a + k], [s sin a, s cos a / t]]

r: places in the image, from -1 to 1; a: an angle of up to 15 degrees; s: a scale of up to 1.2 either way, t: a stretch of up to 1.1;
k: shear of up to 0.1; m: a move of up to an eighth of the width; F: mirrored or not. Between pixels bicubic, beyond the edges reflected.

Why more than mirroring and moving: a trained network knows its training images by heart, in these forms too. Warped they are as hard for it
as images it has never seen (`benchmarks/known_images.py`), and its answers to those teach a network in training what to say to new images.

Beyer et al. 2022, "Knowledge distillation: a good teacher is patient and consistent", section 3: teacher and student see the very same
strongly augmented view. Deviation: warps in place of crops and mixtures of images.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

_ANGLE = math.radians(15)
_SCALE, _STRETCH, _SHEAR, _MOVE = math.log(1.2), math.log(1.1), 0.1, 0.25  # of logarithms; of half a width


@dataclass(frozen=True)
class Augmentation:
    """flip: whether images are mirrored, every other one. shift: by how many pixels at most they are moved each way; what comes in is 0.
    warp: share of the images that are warped instead.
    """

    flip: bool = False
    shift: int = 0
    warp: float = 0.0

    def __bool__(self) -> bool:
        return self.flip or self.shift > 0 or self.warp > 0

    def draw(self, num: int, generator: torch.Generator) -> Draws:
        """What happens to ``num`` images."""
        mirrored = torch.rand(num, generator=generator) < 0.5
        moves = torch.randint(0, 2 * self.shift + 1, (2, num), generator=generator)
        is_warped = torch.rand(num, generator=generator) < self.warp
        places = torch.rand(6, num, generator=generator) * 2 - 1
        return Draws(mirrored & self.flip, moves, is_warped, places)

    def __call__(self, x: Tensor, draws: Draws) -> Tensor:
        """Images [N, C, H, W] with their channels innermost in memory."""
        found = moved(x, draws.moves, draws.mirrored, self.shift)
        chosen = draws.is_warped.nonzero().flatten()
        if len(chosen):
            found[chosen] = warped(x[chosen], draws.places[:, chosen], draws.mirrored[chosen])
        return found


@dataclass(frozen=True)
class Draws:
    """Random numbers, one column an image: mirrored [N], moves [2, N] (rows, columns), is_warped [N], places [6, N] in -1 to 1."""

    mirrored: Tensor
    moves: Tensor
    is_warped: Tensor
    places: Tensor

    def __getitem__(self, part: slice) -> Draws:
        return Draws(self.mirrored[part], self.moves[:, part], self.is_warped[part], self.places[:, part])


def is_image(x: Tensor) -> bool:
    """Whether it is a batch of images [N, C, H, W] of real numbers."""
    return x.ndim == 4 and x.is_floating_point()


def moved(x: Tensor, moves: Tensor, mirrored: Tensor, shift: int) -> Tensor:
    """Images [N, C, H, W], each cut at ``moves`` [2, N] (rows, columns) from itself with ``shift`` zeros around, or from its mirror image.

    Their channels are innermost in memory.
    """
    height, width = x.shape[2:]
    padded = F.pad(x, (shift, shift, shift, shift)).permute(0, 2, 3, 1)
    rows = moves[0][:, None] + torch.arange(height)
    columns = torch.arange(width).expand(len(x), -1)
    columns = moves[1][:, None] + torch.where(mirrored[:, None], width - 1 - columns, columns)
    sample = torch.arange(len(x))[:, None, None]
    return padded[sample, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)


def warped(x: Tensor, places: Tensor, mirrored: Tensor) -> Tensor:
    """Images [N, C, H, W] as the formula above says; ``places`` [6, N] in -1 to 1: of a, s, t, k and both moves between their ends."""
    angle, scale, stretch = places[0] * _ANGLE, torch.exp(places[1] * _SCALE), torch.exp(places[2] * _STRETCH)
    sign = 1 - 2 * mirrored.float()
    across = torch.stack([scale * stretch * angle.cos() * sign, -scale * angle.sin() + places[3] * _SHEAR, places[4] * _MOVE], 1)
    down = torch.stack([scale * angle.sin() * sign, scale * angle.cos() / stretch, places[5] * _MOVE], 1)
    grid = F.affine_grid(torch.stack([across, down], 1), list(x.shape), align_corners=False)
    return F.grid_sample(x, grid.to(x.dtype), mode="bicubic", padding_mode="reflection", align_corners=False)
