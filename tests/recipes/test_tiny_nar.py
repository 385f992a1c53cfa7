"""A NAR recipe with the extension of the bundled ones: language models, cached encoder states, units."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from redline.checkpoints import nar
from redline.checkpoints.draft_lm import load_draft_lm
from redline.checkpoints.shared import DRAFT_LM
from redline.decoding.ngram import DraftOptions
from redline.errors import ConfigError, DataError
from redline.punctuation import strip_punctuation
from redline.train import run
from redline.train.recipe import NarRecipe
from redline.train.run import Materials, build
from redline_recipes.tiny.encoder_cache import EncoderCache, EncoderReader
from redline_recipes.tiny.mel_augment import MelAugmentOptions
from redline_recipes.tiny.nar import written_texts
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


def test_another_rendering_is_made_beside_those_there_are_and_heard_otherwise(
    corpus: Path, books: Path, tmp_path: Path
) -> None:
    hiss = np.random.default_rng(0).standard_normal(16_000).astype(np.float32)
    (tmp_path / "noise").mkdir()
    soundfile.write(tmp_path / "noise" / "hiss.wav", 0.1 * hiss, 16_000)
    first = recipe(steps=1)
    altered = replace(first, cache_mel_augment=MelAugmentOptions(stretch=1.0, noise=1.0))
    builder = partial(build, materials=Materials(corpus, tmp_path, books, tmp_path / "noise"), say=silent)
    one = replace(altered, encoder_cache=replace(first.encoder_cache, renderings=1))
    builder(one, stages=("tokenizer", "encoder", "editor"))
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "states").iterdir()}
    builder(altered, stages=("editor",))
    after = {path: path.stat().st_mtime_ns for path in (tmp_path / "states").iterdir()}
    assert before.items() < after.items() and len(after) == 2 * len(before)
    caches = [EncoderCache.open(path.with_suffix("")) for path in sorted(after) if path.suffix == ".json"]
    lengths = [{name: entry.frames for name, entry in cache.utterances.items()} for cache in caches]
    assert lengths[0] != lengths[1]
    for cache in caches:
        entries = cache.utterances.values()
        assert all(list(entry.cuts) == sorted(entry.cuts) and entry.cuts[-1] <= entry.frames for entry in entries)


def test_real_utterances_teach_how_they_are_written(corpus: Path, books: Path, tmp_path: Path) -> None:
    rows = [json.loads(line) for line in corpus.read_text().splitlines()]
    for row in rows:
        row["audio"] = str(corpus.parent / row["audio"])
    train = [row for row in rows if row["split"] == "train"]
    train[0]["text"] = train[0]["text"].upper()
    train[1]["text"] = f"{train[1]['text'].capitalize()}?"
    (tmp_path / "written.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    said = written_texts(recipe().run(Materials(tmp_path / "written.jsonl", tmp_path / "out", books), silent))
    first, second = (said[row["id"]] for row in train[:2])
    assert first.written is None and first.text == train[0]["text"].lower()
    assert second.written == train[1]["text"] and second.text == strip_punctuation(second.written)


def test_a_projector_learns_to_be_read_before_anything_edits(corpus: Path, books: Path, tmp_path: Path) -> None:
    first = recipe()
    listening = replace(first, projector_training=replace(first.editor_training, steps=30, lr=3e-3))
    materials = Materials(corpus, tmp_path, books)
    build(listening, materials, ("tokenizer", "encoder", "lm", "projector"), silent)
    rows = [json.loads(line) for line in (tmp_path / "projector" / "log.jsonl").read_text().splitlines()]
    assert all("edit" not in row for row in rows) and any("audio" in row for row in rows)
    taught, untaught = (each.run(materials, silent).objective().model for each in (listening, first))
    assert not torch.equal(taught.projector.query, untaught.projector.query)
    assert torch.equal(taught.language_model.model.norm.weight, untaught.language_model.model.norm.weight)


def test_without_renderings_the_encoder_is_run_in_every_step(corpus: Path, tmp_path: Path) -> None:
    build(small_recipe(steps=1), Materials(corpus, tmp_path), (), silent)
    assert not (tmp_path / "states").exists() and nar.load_nar(tmp_path / "model")


def test_the_lowest_blocks_stay_as_they_are_where_a_recipe_holds_them(corpus: Path, tmp_path: Path) -> None:
    build(small_recipe(steps=1), Materials(corpus, tmp_path / "first"), (), silent)
    more = {"init_from": str(tmp_path / "first" / "model"), "frozen_blocks": 1, "editor_training": {"steps": 0}}
    held = small_recipe(more, steps=2)
    build(held, Materials(corpus, tmp_path / "next"), ("tokenizer", "encoder", "export"), silent)
    before, after = (nar.load_nar(tmp_path / name / "model")[0].encoder.state_dict() for name in ("first", "next"))
    changed = {name for name, tensor in after.items() if not torch.equal(tensor, before[name])}
    assert changed and not any(name.startswith(("layers.0.", "input_linear.")) for name in changed)
    with pytest.raises(ConfigError, match="frozen_blocks is 9"):
        build(replace(held, frozen_blocks=9), Materials(corpus, tmp_path / "none"), ("tokenizer", "encoder"), silent)


def test_a_folder_that_a_recipe_names_is_missed_before_anything_is_prepared(corpus: Path, tmp_path: Path) -> None:
    first, out, nowhere = recipe(), tmp_path / "out", str(tmp_path / "nowhere")
    greedy = replace(first, unit_selection=replace(first.unit_selection, greedy_text=nowhere))
    taught = replace(first.distillation, teacher="states", state_blocks=(1,))
    for asked in (greedy, replace(first, whisper_from=nowhere, distillation=taught)):
        with pytest.raises(DataError, match="nowhere"):
            build(asked, Materials(corpus, out), (), silent)
        assert not list(out.iterdir())


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
