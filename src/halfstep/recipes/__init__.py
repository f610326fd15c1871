"""Recipes: which steps, in which order, on which grids. The shipped ones are the YAML files of this folder."""

from halfstep.recipes.recipe import Recipe, shipped

__all__ = ["Recipe", "shipped"]
