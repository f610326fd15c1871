"""What all figures have in common. matplotlib is an optional dependency and is imported here alone."""

from __future__ import annotations

import textwrap
from pathlib import Path
from typing import Any

from halfstep.errors import HalfstepError
from halfstep.files import atomic_path
from halfstep.studies.outcome import Outcome

BLUE, ORANGE, GREY = "#0072b2", "#d55e00", "#8c8c8c"
_TITLE_WIDTH = 75  # letters above one axis


def require_matplotlib() -> None:
    """`HalfstepError` with the way out where figures cannot be drawn."""
    try:
        import matplotlib  # noqa: F401
    except ImportError:
        raise HalfstepError(
            "Figures are drawn with matplotlib, which is not installed: pip install 'halfstep[studies]'. Tables do without it."
        ) from None


def canvas(num_axes: int, outcome: Outcome) -> tuple[Any, list[Any]]:
    """A figure with some axes beside one another, its title that of the study."""
    require_matplotlib()
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5.2 * num_axes, 4.0), layout="constrained", dpi=110)
    axes = [figure.add_subplot(1, num_axes, index + 1) for index in range(num_axes)]
    for axis in axes:
        axis.grid(visible=True, color="#e4e4e4", linewidth=0.7)
        axis.set_axisbelow(True)
        axis.spines[["top", "right"]].set_visible(False)
    spent = textwrap.wrap(f"{outcome.network}: {outcome.spent}", _TITLE_WIDTH * num_axes)
    figure.suptitle("\n".join([outcome.title, *spent]), fontsize=9)
    return figure, axes


def save(figure: Any, path: Path) -> None:
    """Write a PNG, whole or not at all; the same figure gives the same bytes."""
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format="png", metadata={"Software": None})
