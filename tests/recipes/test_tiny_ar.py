"""A Plus recipe with the extension of the bundled ones: cached states, units, n-grams, a speaker embedding head."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from redline import load_model
from redline.checkpoints import ar, nar
from redline.decoding.ngram import DraftOptions
from redline.diarize.embedder import SpeakerEmbedder
from redline.errors import ConfigError, DataError
from redline.manifest import read_manifest, write_manifest
from redline.recognizer import ArRecognizer
from redline.train.run import Materials, build
from redline.types import Task
from redline_recipes.tiny.answers_start import READS_STATES, begin_with_answers
from redline_recipes.tiny.ar import ArRecipe
from tests.ar_corpus import small_ar_recipe
from tests.corpus import silent


def recipe(base: Path, more: dict[str, object], **training: object) -> ArRecipe:
    sections: dict[str, object] = {
        "auxiliary": {"audio_ctc_weight": 0.5},
        "encoder_cache": {"renderings": 1, "least_score": -100.0},
        "unit_selection": {"share": 0.5, "words": [1, 3], "batch_s": 4, "epoch_batches": 6},
    }
    return small_ar_recipe(base, {**sections, **more}, **training)


def test_answers_are_learned_from_cached_states_units_and_n_grams(base: Path, manifest: Path, tmp_path: Path) -> None:
    (tmp_path / "books").mkdir()
    (tmp_path / "books" / "book.txt").write_text("the cat sat on the mat. a dog ran to the red house.\n\n" * 30)
    sections = {"draft_lm": {"order": 3, "kept": 100}, "draft_search": {"width": 4, "lm_weight": 0.5}}
    lines: list[str] = []
    build(recipe(base, sections), Materials(manifest, tmp_path / "out", tmp_path / "books"), (), lines.append)
    assert any(line.startswith("task speakers") for line in lines) and any("words_loss" in line for line in lines)
    assert any("n-grams" in line for line in lines) and list((tmp_path / "out" / "states").glob("*.f16"))
    checkpoint = ar.load_ar(tmp_path / "out" / "model")
    assert checkpoint.draft_lm is not None and checkpoint.draft_lm.options == DraftOptions(width=4, lm_weight=0.5)
    assert ar.load_ar(tmp_path / "out" / "model", draft_lm="none").draft_lm is None


def test_a_head_for_voices_is_trained_and_tells_speakers(base: Path, manifest: Path, tmp_path: Path) -> None:
    sections = {
        "trusts_draft": True,
        "voices": {"size": 4, "voices": 4, "pieces": 2, "piece_s": [0.2, 0.4]},
        "voice_training": {"steps": 3, "precision": "no", "evaluate_every": 3},
    }
    with_voices = recipe(base, sections)
    lines: list[str] = []
    network = SpeakerEmbedder().state_dict()
    torch.save({"model_state": network}, tmp_path / "network.pt")
    rows = [
        {**row.to_dict(), "text": "", "id": f"more-{row.id}", "speaker": "third"} for row in read_manifest(manifest)
    ]
    more = write_manifest(tmp_path / "more.jsonl", rows)
    materials = Materials(manifest, tmp_path, voices=more, voice_weights=tmp_path / "network.pt")
    build(with_voices, materials, ["tokenizer", "answers", "voices", "export"], lines.append)
    # Three speeds of the views, three lengths of the vocal tract.
    assert "voices: 27 of 3 speakers" in lines and any("eer" in line for line in lines)
    log = [json.loads(line) for line in (tmp_path / "voices" / "log.jsonl").read_text().splitlines()]
    assert log[-1]["eer"] >= 0
    recognizer = load_model(tmp_path / "model").recognizer
    assert isinstance(recognizer, ArRecognizer) and recognizer.speaker_embedder is not None
    learned = recognizer.speaker_embedder.state_dict()
    for name, weight in network.items():  # what is held is written too, to within a byte and a half precision
        if name.startswith(("lstm.weight", "linear.weight")):
            assert float((learned[name] - weight).abs().max()) < 1.1 * float(weight.abs().max()) / 254
    assert not recognizer.limits(Task(speakers=True)).needs_previous
    with pytest.raises(DataError, match="no trained voices yet"):
        build(with_voices, Materials(manifest, tmp_path / "new"), ["tokenizer", "answers", "export"], silent)


def test_the_language_model_may_begin_with_that_of_the_base(base: Path, manifest: Path, tmp_path: Path) -> None:
    still = {"lr": 0.0, "weight_decay": 0.0, "steps": 1}
    from_base = recipe(base, {"language_model_from_base": True, "encoder_cache": {"renderings": 0}}, **still)
    build(from_base, Materials(manifest, tmp_path), (), silent)
    old, new = (
        part.language_model.state_dict() for part in (nar.load_nar(base)[0], ar.load_ar(tmp_path / "model").model)
    )
    for name, tensor in old.items():
        torch.testing.assert_close(new[name][: len(tensor)], tensor, atol=1e-3, rtol=1e-3)
    wider = recipe(base, {"language_model_from_base": True, "language_model": {"hidden_size": 32}})
    with pytest.raises(ConfigError, match="must have its shape"):
        build(wider, Materials(manifest, tmp_path), ["answers"], silent)


def test_answers_may_begin_with_those_of_another_model_on_another_encoder(
    base: Path, manifest: Path, tmp_path: Path
) -> None:
    still: dict[str, object] = {"lr": 0.0, "weight_decay": 0.0, "steps": 1}
    plain: dict[str, object] = {"encoder_cache": {"renderings": 0}}
    build(recipe(base, plain, **still), Materials(manifest, tmp_path / "first"), (), silent)
    first = tmp_path / "first" / "model"
    lines: list[str] = []
    more = {**plain, "answers_from": str(first), "export_layers": []}
    build(recipe(base, more, **still), Materials(manifest, tmp_path / "second"), (), lines.append)
    assert any(line.startswith("answers: begin with those of") for line in lines)
    old, new = (ar.load_ar(tmp_path / name / "model").model for name in ("first", "second"))
    for part in ("language_model", "projector"):
        before, after = (getattr(model, part).state_dict() for model in (old, new))
        for name, tensor in before.items():
            if READS_STATES.fullmatch(name):
                assert after[name].shape[1] == new.config.encoder.hidden_dim < tensor.shape[1]
            elif not name.endswith((".key.bias", ".value.bias")):
                assert torch.allclose(after[name], tensor, atol=1e-3)
    features = [torch.randn(60, 160) for _ in range(4)]
    again = begin_with_answers(old, str(first), features)
    assert again > 0.99
    listened = {**more, "projector_training": {"steps": 2, "precision": "no", "evaluate_every": 2}}
    build(recipe(base, listened, **still), Materials(manifest, tmp_path / "third"), (), silent)
    heard = ar.load_ar(tmp_path / "third" / "model").model
    tied = heard.language_model.state_dict()["model.embed_tokens.weight"]
    assert torch.equal(tied, new.language_model.state_dict()["model.embed_tokens.weight"])
    assert not torch.equal(heard.projector.linear.weight, new.projector.linear.weight)
    other = {**plain, "answers_from": str(first), "window_size": 4, "downsample_rate": 2}
    with pytest.raises(ConfigError, match=r"answers_from: query is .* must have its shape"):
        build(recipe(base, other), Materials(manifest, tmp_path / "fourth"), ["tokenizer", "answers"], silent)
