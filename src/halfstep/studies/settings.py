"""How much is spent on a study, and one setting of it: what is quantized, and how."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import pydantic

from halfstep.recipes import Recipe
from halfstep.registry import Spec


class Settings(pydantic.BaseModel):
    """What a user may change in every study; the defaults are the paper's.

    bits: of the quantized weights. num_seeds: runs of everything that is random; a seed decides which images a run is calibrated on and all
    of its random choices. num_iterations: of the learned roundings. num_positions: output positions drawn of each image at each of their
    steps (None: all). num_samples: images to calibrate on. num_draws: stochastic roundings in table 1 and figure 1. num_epochs: of training
    with quantization in the loop. is_quick: whether these are the reduced settings of `quick`.
    """

    model_config = pydantic.ConfigDict(frozen=True, extra="forbid")

    bits: int = pydantic.Field(default=4, ge=2, le=8)
    num_seeds: int = pydantic.Field(default=5, ge=1)
    num_iterations: int = pydantic.Field(default=10_000, ge=1)
    num_positions: int | None = pydantic.Field(default=None, ge=1)
    num_samples: int = pydantic.Field(default=1024, ge=1)
    num_draws: int = pydantic.Field(default=100, ge=2)
    num_epochs: float = pydantic.Field(default=10.0, gt=0)
    is_quick: bool = False

    @classmethod
    def quick(cls) -> Settings:
        """A tenth of the iterations and epochs, 16 output positions a step, three seeds; the cross-entropy method with a thirtieth of its
        samples.
        """
        return cls(num_seeds=3, num_iterations=1000, num_positions=16, num_epochs=1.0, is_quick=True)

    def words(self, with_images: bool = True, with_seeds: bool = True) -> str:
        """One line for titles and pages."""
        parts = [
            f"{self.bits}-bit weights",
            f"{self.num_samples:,} images" if with_images else "",
            f"{self.num_iterations:,} iterations",
            "all output positions" if self.num_positions is None else f"{self.num_positions} sampled output positions",
            f"{self.num_seeds} seed{'s' if self.num_seeds > 1 else ''}" if with_seeds else "one seed",
        ]
        return ("quick settings: " if self.is_quick else "") + ", ".join(part for part in parts if part)

    def learned(self, method: str, options: Mapping[str, Any] | None = None) -> Spec:
        """A rounding that is learned in iterations (``adaround``, ``ste``) with these settings."""
        return {method: {"num_iterations": self.num_iterations, "num_positions": self.num_positions, **(options or {})}}

    def cross_entropy(self, objective: str) -> Spec:
        """The QUBO by the cross-entropy method with these settings; ``objective``: task (13) or local (20)."""
        reduced = {"num_samples": 256, "num_rounds": 60, "elite_share": 0.1, "smoothing": 0.3} if self.is_quick else {}
        return {"qubo_cem": {"objective": objective, **reduced}}


@dataclass(frozen=True)
class Published:
    """A figure of the paper: top-1 on ImageNet in percent, and the standard deviation over five seeds where the paper gives one."""

    mean: float
    deviation: float | None = None


@dataclass(frozen=True)
class Cell:
    """One figure of a table: how the network is quantized, and what the paper found that way.

    method: the rounding. only_first: whether the first layer alone is quantized. weight_range: which grid. then: steps after rounding.
    is_random: whether the outcome depends on the seed. num_samples, num_seeds: instead of those of the settings. is_other: whether the
    images to calibrate on come from another data set. with_costs: whether the costs (13) and (20) of the first layer are taken down too.
    """

    method: Spec
    published: Published | None = None
    only_first: bool = False
    weight_range: Spec = "mse"
    then: tuple[Spec, ...] = ()
    is_random: bool = True
    num_samples: int | None = None
    num_seeds: int | None = None
    is_other: bool = False
    with_costs: bool = False

    def recipe(self, bits: int) -> Recipe:
        """Weights on a symmetric grid with one scale a layer, activations in float, batch norms folded: the paper's experimental setup."""
        kind = f"int{bits}"
        scheme: dict[str, Any] = {
            "weights": {"type": "float" if self.only_first else kind, "symmetric": True, "per_channel": False, "narrow": False},
            "activations": {"type": "float"},
        }
        if self.only_first:
            scheme["first_layer"] = {"weights": kind}
        steps = ["fold_batch_norm", "place_quantizers", {"calibrate": {"weights": self.weight_range}}, {"round": {"method": self.method}}]
        return Recipe.parse({"name": f"w{bits}", "scheme": scheme, "steps": [*steps, *self.then]}, "of a study")


@dataclass(frozen=True)
class TrainedCell:
    """A row of a table of training with quantization in the loop: a shipped recipe, and how long it trains.

    num_samples: images to calibrate on. is_other: training images are always the network's own.
    """

    shipped: str
    num_epochs: float
    num_samples: int = 512
    is_other: ClassVar[bool] = False

    def recipe(self, bits: int) -> Recipe:
        """The shipped recipe, images mirrored and moved by up to 4 pixels; its bits are its own, not ``bits``."""
        return Recipe.load(self.shipped).with_step("finetune", {"epochs": self.num_epochs, "flip": True, "shift": 4})


AnyCell = Cell | TrainedCell
NEAREST = Cell("nearest", is_random=False)
