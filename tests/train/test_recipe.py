"""Recipes: strict keys, bundled files, and what earlier ones said."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

from redline.errors import ConfigError
from redline.train.recipe import NarRecipe, read_recipe, recipe_from_dict
from redline.train.run import Materials, build
from redline_recipes.tiny.ar import ArRecipe
from redline_recipes.tiny.nar import TinyNarRecipe, nar_config
from tests.corpus import WORDS, editor_recipe, silent, tokenizer_of


def test_unknown_recipe_keys_are_refused() -> None:
    with pytest.raises(ConfigError, match="hidden_dimension"):
        small = recipe_from_dict({"encoder": {"hidden_dimension": 3}})
        assert isinstance(small, NarRecipe)
        nar_config(small, tokenizer_of(["a b"]))
    with pytest.raises(ConfigError, match="encoder_steps"):
        recipe_from_dict({"encoder_steps": 3})
    with pytest.raises(ConfigError, match="no such recipe"):
        read_recipe("does-not-exist")


@pytest.mark.parametrize("name", ["tiny", "tiny-multi", "nle-2b"])
def test_the_bundled_recipes_are_valid(name: str) -> None:
    recipe = read_recipe(name)
    assert isinstance(recipe, NarRecipe)
    config = nar_config(recipe, tokenizer_of(WORDS))
    assert config.encoder.subsampling == (1 if name == "nle-2b" else 2) and config.languages == recipe.languages


def test_a_recipe_with_a_kind_is_that_of_a_model_that_answers() -> None:
    recipe = read_recipe("tiny-plus")
    assert isinstance(recipe, ArRecipe)
    assert recipe.kind == "granite_speech_plus" and recipe.window_size == recipe.downsample_rate == 2


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"start": "tiny"}, "start is now init_from"),
        ({"states": {"renderings": 1}}, r"states is now \[encoder_cache\].*redline_recipes.tiny.extension"),
        ({"edit": {"consistency": 0.2}}, "consistency was tried and not kept"),
        ({"encoder_training": {"steps": 3}}, "left out where no encoder is trained.*tiny.extension"),
        ({"conversations": {"share": 0.5}}, "conversations was tried and not kept"),
        ({"kind": "granite_speech_plus"}, "kind is unknown.*redline_recipes.tiny"),
    ],
)
def test_keys_of_earlier_recipes_are_explained(values: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        recipe_from_dict(values)


def test_sections_of_an_extension_are_as_strict_as_the_others() -> None:
    extension = {"extension": "redline_recipes.tiny.extension"}
    recipe = recipe_from_dict({**extension, "unit_selection": {"words": [2, 4]}, "letters": "a-z"})
    assert isinstance(recipe, TinyNarRecipe)
    assert recipe.unit_selection.words == (2, 4) and recipe.encoder_cache.renderings == 0
    for values, message in (
        ({"unit_selection": {"word": 3}}, r"\[unit_selection\]: word is unknown"),
        ({"unit_selection": 3}, "it is a section"),
        ({"aligned_mixing": {"share": 2.0}}, "share is 2.0"),
    ):
        with pytest.raises(ConfigError, match=message):
            recipe_from_dict({**extension, **values})


OWN = """
from dataclasses import dataclass
from redline.train.recipe import NarRecipe

@dataclass(frozen=True)
class Own(NarRecipe):
    loudness: float = 1.0

def recipe(values):
    return Own()
"""


def test_an_extension_may_be_a_file_beside_the_recipe(tmp_path: Path) -> None:
    (tmp_path / "own.py").write_text(OWN, encoding="utf-8")
    (tmp_path / "own.toml").write_text('extension = "own.py"\nloudness = 0.5\n', encoding="utf-8")
    assert vars(read_recipe(tmp_path / "own.toml"))["loudness"] == 0.5
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "own.toml").write_text('extension = "../own.py"\n', encoding="utf-8")
    with pytest.raises(ConfigError, match="no such file or module"):
        read_recipe(elsewhere / "own.toml")


@pytest.mark.parametrize("name", ["nowhere.py", "redline_recipes.nowhere", "redline.features"])
def test_an_extension_that_is_none_is_refused_by_name(name: str) -> None:
    with pytest.raises(ConfigError, match=f"extension is '{name}'"):
        recipe_from_dict({"extension": name})


def test_the_extension_of_the_guide_trains(corpus: Path, model: Path, tmp_path: Path) -> None:
    guide = (Path(__file__).parents[2] / "docs" / "training.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"```python\n(.*?)```", guide, re.DOTALL)
    (tmp_path / "louder.py").write_text(code, encoding="utf-8")
    louder = {"extension": str(tmp_path / "louder.py"), "louder_db": 20.0}
    seen: list[torch.Tensor] = []
    for name, more in (("louder", louder), ("plain", {})):
        recipe, materials = editor_recipe(model, more, steps=1), Materials(corpus, tmp_path / name)
        build(recipe, materials, ("tokenizer", "editor"), silent)
        seen.append(next(recipe.run(materials, silent).source(None).epoch(0)).features)
    torch.testing.assert_close(seen[0], torch.where(seen[1] == 0, seen[0], seen[1] + 0.5))
