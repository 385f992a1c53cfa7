"""A NAR recipe with the extension of the bundled ones: language models, cached encoder states, units."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from redline.checkpoints import nar
from redline.checkpoints.draft_lm import DRAFT_LM, load_draft_lm
from redline.decoding.ngram import DraftOptions
from redline.errors import DataError
from redline.train import run
from redline.train.data.augment import SpecAugmentOptions
from redline.train.recipe import NarRecipe
from redline.train.run import Materials, build
from redline_recipes.tiny.encoder_cache import EncoderReader
from tests.corpus import silent, small_recipe, small_tiny_recipe


def recipe(order: int = 0, **training: object) -> NarRecipe:
    return small_tiny_recipe(
        {
            "draft_lm": {"order": order, "held_out": 2},
            "encoder_cache": {"renderings": 2, "least_score": -100.0},
            "unit_selection": {"words": [2, 4], "batch_s": 4, "text_batch_s": 8, "text_share": 0.5, "epoch_batches": 6},
            "auxiliary": {"audio_ctc_weight": 0.3, "punctuation_weight": 0.5, "scramble_rate": [0.0, 0.2]},
        },
        **training,
    )


def test_every_stage_leaves_a_log_and_the_model_has_every_part(corpus: Path, books: Path, tmp_path: Path) -> None:
    build(recipe(order=3), Materials(corpus, tmp_path, books), (), silent)
    model, _, _ = nar.load_nar(tmp_path / "model")
    assert model.punctuation_head is not None and (tmp_path / "model" / DRAFT_LM).exists()
    for stage in ("encoder", "lm", "editor"):
        rows = [json.loads(line) for line in (tmp_path / stage / "log.jsonl").read_text().splitlines()]
        assert any("loss" in row for row in rows) and any("loss" not in row for row in rows)
        assert (tmp_path / stage / "log.png").stat().st_size > 1000
    assert any("punctuation" in row for row in rows) and {"edited_wer", "removed"} <= rows[-1].keys()


@pytest.mark.parametrize("order", [0, 3])
def test_an_editor_learns_from_the_encoder_cache(corpus: Path, books: Path, tmp_path: Path, order: int) -> None:
    materials = Materials(corpus, tmp_path, books)
    first = recipe(order)
    build(first, materials, ("tokenizer", "encoder", "draft_lm", "editor", "export"), silent)
    _, config, _ = nar.load_nar(tmp_path / "model")
    path = tmp_path / "model" / DRAFT_LM
    assert path.exists() == bool(order)
    kept = {path: path.stat().st_mtime_ns for path in (tmp_path / "states").iterdir()}
    if order:
        search = DraftOptions(width=3, keep_bias=2.0)
        build(replace(first, draft_search=search), materials, ("export",), silent)
        assert load_draft_lm(path, config.text.vocab_size).options == search
    longer = replace(first, editor_training=replace(first.editor_training, steps=6))
    lines: list[str] = []
    build(longer, materials, ("editor",), lines.append)
    assert kept == {path: path.stat().st_mtime_ns for path in (tmp_path / "states").iterdir()}
    assert any("going on from step 4 of 6" in line for line in lines)
    warped = replace(first, cache_augment=SpecAugmentOptions(time_warp_frames=80))
    with pytest.raises(DataError, match="time_warp_frames must be 0"):
        build(warped, materials, ("editor",), silent)


def test_without_renderings_the_encoder_is_run_in_every_step(corpus: Path, tmp_path: Path) -> None:
    build(small_recipe(steps=1), Materials(corpus, tmp_path), (), silent)
    assert not (tmp_path / "states").exists() and nar.load_nar(tmp_path / "model")


class Reached(Exception):
    """The encoder was called."""


def test_the_device_of_a_run_reaches_the_encoder(
    corpus: Path, books: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one_step = recipe(steps=1)
    materials = Materials(corpus, tmp_path, books)
    build(one_step, materials, ("tokenizer", "encoder"), silent)
    devices: list[torch.device] = []
    plain = EncoderReader.__call__

    def spy(reader: EncoderReader, rows: list[torch.Tensor]) -> object:
        devices.append(next(reader.encoder.parameters()).device)
        devices.append(plain(reader, rows)[1].device)
        raise Reached

    monkeypatch.setattr(EncoderReader, "__call__", spy)
    monkeypatch.setattr(run, "training_device", torch.device)
    with pytest.raises(Reached):
        build(one_step, materials, ("editor",), silent, "meta")
    assert {device.type for device in devices} == {"meta"}
