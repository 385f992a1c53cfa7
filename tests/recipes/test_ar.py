"""An AR or Plus recipe whose encoder is run in every step."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from redline import load_model
from redline.checkpoints import ar, nar
from redline.decoding import tags
from redline.decoding.ctc import greedy
from redline.errors import ConfigError, DataError
from redline.manifest import read_manifest
from redline.recognizer import ArRecognizer
from redline.tokenizer import Tokenizer
from redline.train.recipe import recipe_from_dict
from redline.train.run import Materials, build
from redline_recipes.tiny.ar import tags_of
from tests.ar_corpus import small_ar_recipe
from tests.corpus import silent


def test_every_tag_is_one_token_and_decodes_to_what_is_parsed(base: Path, manifest: Path, tmp_path: Path) -> None:
    build(small_ar_recipe(base), Materials(manifest, tmp_path), ["tokenizer"], silent)
    tokenizer = Tokenizer.from_file(tmp_path / "tokenizer.json")
    for tag in tags_of(0.04):
        assert len(tokenizer.encode(tag)) == 1, tag
    text = "_ [T:20] the [T:60] zebra [T:96]"
    ids = tokenizer.encode(text)
    assert len(ids) == len(tokenizer.encode("_")) + len(tokenizer.encode("the")) + len(tokenizer.encode("zebra")) + 3
    assert tags.parse_tagged(tokenizer.decode(ids)) == tags.parse_tagged(text)
    assert tokenizer.encode("The ZEBRA") == tokenizer.encode("the zebra") and tokenizer.id_of("<|audio|>") is not None
    before = Tokenizer.from_file(base / "tokenizer.json")
    assert tokenizer.encode("the zebra") == before.encode("the zebra"), "the base's draft would mean other words"


def test_a_recipe_makes_a_model_that_answers_and_goes_on_where_it_stopped(
    base: Path, manifest: Path, tmp_path: Path
) -> None:
    lines: list[str] = []
    build(small_ar_recipe(base), Materials(manifest, tmp_path), ["tokenizer", "answers"], lines.append)
    assert any("speakers_loss" in line and "words_loss" in line for line in lines)
    lines.clear()
    build(small_ar_recipe(base, steps=6), Materials(manifest, tmp_path), ["answers", "export"], lines.append)
    assert any("going on from step 4 of 6" in line for line in lines)
    model = load_model(tmp_path / "model")
    recognizer = model.recognizer
    assert isinstance(recognizer, ArRecognizer)
    # The encoder is the base's, and its draft too.
    old, new = nar.load_nar(base)[0], ar.load_ar(tmp_path / "model").model
    for name, tensor in new.encoder.state_dict().items():
        torch.testing.assert_close(tensor, old.encoder.state_dict()[name], atol=1e-3, rtol=1e-3)
    assert new.draft_head is not None
    clip = read_manifest(manifest)[0].audio
    for asked in ({}, {"keywords": ["sea"]}, {"words": True}, {"speakers": True}):
        assert model.transcribe(clip, vad=False, **asked).duration > 0


def test_the_draft_is_that_of_the_base(base: Path, manifest: Path, tmp_path: Path) -> None:
    build(small_ar_recipe(base, steps=1), Materials(manifest, tmp_path), ["tokenizer", "answers", "export"], silent)
    old, new = nar.load_nar(base)[0], ar.load_ar(tmp_path / "model").model
    features, lengths = torch.randn(2, 60, 160), torch.tensor([60, 33])
    with torch.no_grad():
        expected = greedy(*old.draft_head(old.encode(features, lengths)), old.draft_head.blank)
        assert new.draft_head is not None
        assert greedy(*new.draft_head(new.encode(features, lengths)), new.draft_head.blank) == expected


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"kind": "granite"}, "allowed are granite_speech, granite_speech_plus"),
        ({"nonsense": 1}, "nonsense is unknown"),
        ({"tasks": {"words": -1}}, "words is -1; allowed are"),
        ({"tasks": {"tick_s": 0.015}}, "whole centiseconds"),
    ],
)
def test_a_recipe_that_contradicts_itself_is_told(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        recipe_from_dict({"extension": "redline_recipes.tiny.extension", "kind": "granite_speech_plus", **changes})


def test_stages_out_of_order_are_told(base: Path, manifest: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="run the stage 'tokenizer' first"):
        build(small_ar_recipe(base), Materials(manifest, tmp_path), ["answers"], silent)
    with pytest.raises(DataError, match="no trained answers yet"):
        build(small_ar_recipe(base), Materials(manifest, tmp_path), ["tokenizer", "export"], silent)
    with pytest.raises(ConfigError, match="no stage"):
        build(small_ar_recipe(base), Materials(manifest, tmp_path), ["editor"], silent)


def test_a_training_set_that_nothing_can_be_asked_about_is_refused(base: Path, manifest: Path, tmp_path: Path) -> None:
    never = {"transcribe": 0.0, "keywords": 0.0, "words": 0.0, "speakers": 0.0}
    recipe = small_ar_recipe(base, {"tasks": never})
    with pytest.raises(DataError, match=r"every share of \[tasks\] is 0"):
        build(recipe, Materials(manifest, tmp_path), ["tokenizer", "answers"], silent)
