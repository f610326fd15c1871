"""Images mirrored, moved and warped."""

from __future__ import annotations

import math

import pytest
import torch
from torch.nn import functional as F

from halfstep.steps.training.augmentation import Augmentation, moved, warped

PLAIN, MIRRORED = torch.tensor([False]), torch.tensor([True])


def test_images_are_moved_and_mirrored_by_hand() -> None:
    x = torch.arange(9.0).view(1, 1, 3, 3)  # rows 0 1 2, 3 4 5, 6 7 8
    still, right = torch.tensor([[1], [1]]), torch.tensor([[1], [0]])
    assert torch.equal(moved(x, still, PLAIN, 1), x)
    assert torch.equal(moved(x, still, MIRRORED, 1), x.flip(3))
    assert moved(x, right, PLAIN, 1)[0, 0].tolist() == [[0, 0, 1], [0, 3, 4], [0, 6, 7]]
    assert moved(x, torch.tensor([[2], [1]]), PLAIN, 1)[0, 0].tolist() == [[3, 4, 5], [6, 7, 8], [0, 0, 0]]


def places(**given: float) -> torch.Tensor:
    """Of one image, 0 but for what is named."""
    return torch.tensor([[given.get(name, 0.0)] for name in ("angle", "scale", "stretch", "shear", "across", "down")])


def hill(center: tuple[float, float]) -> torch.Tensor:
    """An image [1, 1, 64, 64] with one round hill; ``center`` (across, down) in -1 to 1."""
    ends = (torch.arange(64) + 0.5) / 32 - 1
    return torch.exp(-((ends[None, :] - center[0]) ** 2 + (ends[:, None] - center[1]) ** 2) / 0.1**2).view(1, 1, 64, 64)


@pytest.mark.parametrize(
    ("given", "mirrored", "center"),
    [
        ({}, PLAIN, (0.4, 0.2)),
        ({}, MIRRORED, (-0.4, 0.2)),
        ({"scale": 1.0}, PLAIN, (0.4 / 1.2, 0.2 / 1.2)),
        ({"stretch": 1.0}, PLAIN, (0.4 / 1.1, 0.2 * 1.1)),
        ({"across": 1.0}, PLAIN, (0.4 - 0.25, 0.2)),
        ({"down": -1.0}, PLAIN, (0.4, 0.2 + 0.25)),
        ({"shear": 1.0}, PLAIN, (0.4 - 0.1 * 0.2, 0.2)),
        (
            {"angle": 1.0},
            PLAIN,
            (
                0.4 * math.cos(math.pi / 12) + 0.2 * math.sin(math.pi / 12),
                0.2 * math.cos(math.pi / 12) - 0.4 * math.sin(math.pi / 12),
            ),
        ),
    ],
)
def test_a_hill_goes_where_the_formula_says(given: dict[str, float], mirrored: torch.Tensor, center: tuple[float, float]) -> None:
    """Its centre of mass, to a twentieth of a pixel."""
    found = warped(hill((0.4, 0.2)), places(**given), mirrored)[0, 0].clamp(min=0)
    ends = (torch.arange(64) + 0.5) / 32 - 1
    mass = found.sum()
    assert float((found.sum(0) * ends).sum() / mass) == pytest.approx(center[0], abs=0.05 / 32)
    assert float((found.sum(1) * ends).sum() / mass) == pytest.approx(center[1], abs=0.05 / 32)


def test_without_a_change_an_image_stays_as_it_is(generator: torch.Generator) -> None:
    x = torch.randn(2, 3, 8, 6, generator=generator)
    none = torch.zeros(6, 2)
    torch.testing.assert_close(warped(x, none, torch.tensor([False, True])), torch.stack([x[0], x[1].flip(2)]), atol=1e-5, rtol=0)


def test_the_share_of_images_that_is_warped(generator: torch.Generator) -> None:
    """The others are mirrored and moved as without; what is drawn for a part of the batch is what is drawn for the whole."""
    x = torch.randn(400, 1, 8, 8, generator=generator)
    some, none = Augmentation(flip=True, shift=1, warp=0.25), Augmentation(flip=True, shift=1)
    draws = some.draw(400, torch.Generator().manual_seed(5))
    found, plain = some(x, draws), none(x, none.draw(400, torch.Generator().manual_seed(5)))
    same = (found == plain).flatten(1).all(1)
    assert torch.equal(same, ~draws.is_warped) and 0.2 < float(draws.is_warped.float().mean()) < 0.3
    assert torch.equal(some(x[100:300], draws[100:300]), found[100:300])


def test_images_are_not_mirrored_unasked(generator: torch.Generator) -> None:
    augmentation = Augmentation(warp=1.0)
    draws = augmentation.draw(64, generator)
    assert bool(augmentation) and not bool(Augmentation()) and not bool(draws.mirrored.any())
    x = hill((0.6, 0.0)).expand(64, -1, -1, -1)
    assert bool((F.adaptive_avg_pool2d(augmentation(x, draws), (1, 2))[:, 0, 0].diff() > 0).all())
