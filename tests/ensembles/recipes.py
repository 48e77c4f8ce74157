"""Recipes for tests, made as a deployment file makes them."""

from __future__ import annotations

from typing import Any

from planner.deployment import PreprocessSpec, recipe_of
from planner.ingress import PrepareRecipe
from planner.profile import TensorSpec


def recipe(shape: tuple[int, ...] = (3, 8, 16), dtype: str = "FP32", **preprocess: Any) -> PrepareRecipe:
    """Of `preprocess:` with these fields, for an input of this shape."""
    spec = PreprocessSpec.model_validate(preprocess)
    return recipe_of(spec, TensorSpec("image", dtype, shape), "net")
