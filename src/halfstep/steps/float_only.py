"""Steps that rewrite the float network say so when they come too late."""

from __future__ import annotations

from torch.fx import GraphModule

from halfstep.errors import RecipeError
from halfstep.quantizers import quantizers


def refuse_quantizers(graph: GraphModule, step: str) -> None:
    """Raises `RecipeError` where ``graph`` has quantizers already."""
    if next(quantizers(graph), None) is not None:
        raise RecipeError(f"The step '{step}' rewrites the float network: put it before 'place_quantizers' in the recipe.")
