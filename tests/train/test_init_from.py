"""A recipe that goes on from a checkpoint: what it takes from there, what it must agree with, what it hands on."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from redline.checkpoints import nar
from redline.checkpoints.draft_lm import load_draft_lm
from redline.checkpoints.folder import ASSETS
from redline.checkpoints.shared import DRAFT_LM
from redline.decoding.ngram import DraftOptions
from redline.errors import CheckpointError, ConfigError, DataError
from redline.models.heads import PunctuationHead
from redline.models.nar import NarModel
from redline.train.recipe import NarRecipe
from redline.train.run import Materials, build
from redline_recipes.tiny.bpe import train_tokenizer
from redline_recipes.tiny.nar import nar_config
from redline_recipes.tiny.ngram import NgramOptions, estimate
from tests.corpus import LOOP, WORDS, editor_recipe, silent, small_recipe

STAGES = ()
"""All of them."""


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint with everything that one may hold, in the precision of the published ones."""
    folder = tmp_path_factory.mktemp("start")
    tokenizer = train_tokenizer(WORDS, 270, folder / "tokenizer.json")
    torch.manual_seed(7)
    model = NarModel(nar_config(small_recipe(), tokenizer))
    model.punctuation_head = PunctuationHead(model.config.text.hidden_size)
    blank = model.config.blank_token_id
    stream = np.array([id for word in WORDS * 3 for id in (blank, *tokenizer.encode(word))])
    lm = estimate(stream, tokenizer.vocab_size, blank, NgramOptions(order=2), DraftOptions())
    return nar.save_nar(folder / "model", model, folder / "tokenizer.json", lm, dtype=torch.bfloat16)


def from_start(start: Path, encoder: object, lm: object, **sections: object) -> NarRecipe:
    """A recipe of the bundled ones' extension that goes on from a checkpoint."""
    training = {"encoder_training": encoder, "lm_training": lm}
    return editor_recipe(start, {"extension": "redline_recipes.tiny.extension", **training, **sections})


@pytest.mark.parametrize("rank", [0, 4])
def test_an_editor_goes_on_from_a_checkpoint_and_resumes(corpus: Path, start: Path, tmp_path: Path, rank: int) -> None:
    recipe, materials = editor_recipe(start, {"edit": {"lora_rank": rank}}), Materials(corpus, tmp_path)
    build(recipe, materials, STAGES, silent)
    lines: list[str] = []
    longer = replace(recipe, editor_training=replace(recipe.editor_training, steps=6))
    build(longer, materials, STAGES, lines.append)
    assert any("editor: going on from step 4 of 6" in line for line in lines)
    exported = tmp_path / "model"
    assert (exported / "tokenizer.json").read_bytes() == (start / "tokenizer.json").read_bytes()
    assert json.loads((exported / "config.json").read_text())["dtype"] == "bfloat16"
    before, _, _ = nar.load_nar(start)
    after, config, _ = nar.load_nar(exported)
    assert config == replace(before.config, languages=("en",))
    old, new = before.state_dict(), after.state_dict()
    assert old.keys() == new.keys()
    kept = {name for name in old if torch.equal(old[name], new[name])}
    assert {name for name in old if name.startswith(("encoder.", "punctuation_head."))} <= kept
    assert {name for name in old if name.startswith("projector.")} - kept
    assert {name for name in old if name.startswith("language_model.")} - kept
    lms = [load_draft_lm(Path(folder) / DRAFT_LM, config.text.vocab_size) for folder in (start, exported)]
    orders = range(1, lms[0].order + 1)
    assert all(np.array_equal(lms[0].grams(order).keys, lms[1].grams(order).keys) for order in orders)


def test_encoder_and_language_model_begin_with_the_checkpoint(corpus: Path, start: Path, tmp_path: Path) -> None:
    (tmp_path / "book.txt").write_text("\n".join(" ".join(WORDS[i:] + WORDS[:i]) for i in range(14)) * 2)
    # At no learning rate everything stays as it began.
    still = {**LOOP, "lr": 0.0, "weight_decay": 0.0}
    recipe = from_start(start, still, still, editor_training=still)
    build(recipe, Materials(corpus, tmp_path / "out", tmp_path / "book.txt"), STAGES, silent)
    assert (tmp_path / "out/encoder/log.jsonl").exists() and (tmp_path / "out/lm/log.jsonl").exists()
    old, new = (nar.load_nar(folder)[0].state_dict() for folder in (start, tmp_path / "out/model"))
    # The statistics of the encoder's normalisation follow what it hears at any learning rate.
    changed = [name for name in old if not torch.equal(old[name], new[name])]
    assert changed and all(".batch_norm." in name for name in changed)


def test_a_recipe_makes_its_own_draft_lm_and_forms(corpus: Path, start: Path, tmp_path: Path) -> None:
    (tmp_path / "book.txt").write_text("\n".join(" ".join(WORDS[i:] + WORDS[:i]) for i in range(14)) * 2)
    recipe = from_start(start, {"steps": 0}, {"steps": 0}, draft_lm={"order": 3, "held_out": 2})
    build(recipe, Materials(corpus, tmp_path / "out", tmp_path / "book.txt"), STAGES, silent)
    assert not (tmp_path / "out" / "encoder").exists() and not (tmp_path / "out" / "lm").exists()
    _, config, folder = nar.load_nar(tmp_path / "out/model")
    assert load_draft_lm(folder / DRAFT_LM, config.text.vocab_size).order == 3


@pytest.mark.parametrize(
    ("key", "change"),
    [
        (r"\[encoder\] hidden_dim is 24", {"encoder": {"hidden_dim": 24}}),
        (r"\[projector\] num_layers is 2", {"projector": {"num_layers": 2}}),
        (r"\[language_model\] depth is 3, .* has None", {"language_model": {"depth": 3}}),
        ("vocab_size is 768", {"vocab_size": 768}),
        ("encoder_layer_indices is", {"encoder_layer_indices": (1, 2, -1)}),
    ],
)
def test_a_recipe_must_mean_the_model_that_it_starts_from(
    corpus: Path, start: Path, tmp_path: Path, key: str, change: dict[str, object]
) -> None:
    with pytest.raises(ConfigError, match=key):
        build(replace(editor_recipe(start), **change), Materials(corpus, tmp_path), ("tokenizer", "editor"), silent)  # type: ignore[arg-type]


def test_a_recipe_may_repeat_the_shape_of_the_model_that_it_starts_from(
    corpus: Path, start: Path, tmp_path: Path
) -> None:
    small = small_recipe()
    repeated = replace(
        editor_recipe(start),
        encoder={**small.encoder, "subsample_layers": [1]},
        projector=small.projector,
        language_model=small.language_model,
        vocab_size=270,
        encoder_layer_indices=(1, -1),
    )
    build(repeated, Materials(corpus, tmp_path), ("tokenizer", "editor"), silent)
    assert (tmp_path / "editor/state.safetensors").exists()


def test_the_tokenizer_must_be_that_of_the_checkpoint(corpus: Path, start: Path, tmp_path: Path) -> None:
    build(small_recipe(), Materials(corpus, tmp_path), ("tokenizer",), silent)
    with pytest.raises(DataError, match="is not the tokenizer of"):
        build(editor_recipe(start), Materials(corpus, tmp_path), ("tokenizer", "editor"), silent)


def test_a_start_that_is_not_there_is_an_error_for_people(corpus: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no such folder"):
        build(editor_recipe("nothing"), Materials(corpus, tmp_path), ("tokenizer",), silent)


def test_the_bundled_model_can_be_gone_on_from(corpus: Path, tmp_path: Path) -> None:
    build(editor_recipe("tiny"), Materials(corpus, tmp_path), ("tokenizer",), silent)
    assert (tmp_path / "tokenizer.json").read_bytes() == (ASSETS / "tiny/tokenizer.json").read_bytes()
