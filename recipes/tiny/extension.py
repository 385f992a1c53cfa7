"""The extension of the bundled recipes: stages, batches and losses for small models and a few hours of speech.

Books, n-grams, cached encoder states and units in place of batches that the encoder reads anew.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from redline.train.recipe import Recipe
from redline_recipes.tiny.ar import ArRecipe
from redline_recipes.tiny.nar import ScratchRecipe, TinyNarRecipe


def recipe(values: Mapping[str, Any]) -> Recipe:
    """That of an AR model where it has a `kind`, that of a NAR model from scratch where it has no checkpoint."""
    if "kind" in values:
        return ArRecipe()
    return TinyNarRecipe() if values.get("init_from") else ScratchRecipe()
