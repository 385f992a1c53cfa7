"""Which language is spoken: the head that tells it, and the way of its answer into transcripts."""

from __future__ import annotations

import json
import random
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from redline.checkpoints import nar
from redline.errors import DataError, UnsupportedTaskError
from redline.load import load_model
from redline.models.config import EncoderConfig
from redline.models.conformer import ConformerEncoder
from redline.models.draft_head import DraftHead
from redline.models.heads import LanguageHead
from redline.models.nar import NarModel
from redline.recognizer import NarRecognizer
from redline.testing import FakeRecognizer, tone
from redline.train.run import Materials, build
from redline.transcriber import Transcriber
from redline.types import Hypothesis, Request, Task, Waveform
from redline_recipes.tiny.bpe import train_tokenizer
from redline_recipes.tiny.encoder import transfer_encoder, transfer_tokens
from tests.builders import recognize_clips, tiny_config
from tests.corpus import WORDS, make_corpus, silent, small_recipe, small_tiny_recipe, tokenizer_of


def test_padding_does_not_change_the_language() -> None:
    torch.manual_seed(0)
    head = LanguageHead(8, ("en", "de", "fr"))
    hidden = torch.randn(2, 9, 8)
    hidden[1, 5:] = torch.nan  # what lies beyond the end may be anything
    together = head(hidden, torch.tensor([9, 5]))
    alone = head(hidden[1:, :5], torch.tensor([5]))
    assert torch.allclose(together[1:], alone, atol=1e-6)


def test_a_model_with_a_head_tells_the_language(tmp_path: Path) -> None:
    tokenizer = tokenizer_of([" ".join(WORDS)] * 4)
    torch.manual_seed(2)
    model = NarModel(tiny_config(tokenizer.vocab_size)).eval()
    model.language_head = LanguageHead(model.config.encoder.hidden_dim, ("en", "de"))
    with torch.no_grad():
        model.language_head.out.weight.zero_()
        model.language_head.out.bias.copy_(torch.tensor([0.0, 1.0]))
    path = tmp_path / "tokenizer.json"
    path.write_text(tokenizer._core.to_str(), encoding="utf-8")
    loaded, _, _ = nar.load_nar(nar.save_nar(tmp_path / "model", model, path))
    assert loaded.language_head is not None and loaded.language_head.languages == ("en", "de")
    hypotheses = recognize_clips(NarRecognizer(loaded, tokenizer, name="x"), [tone(1.0)], Task())
    assert [hypothesis.language for hypothesis in hypotheses] == ["de"]
    with torch.no_grad():
        loaded.language_head = LanguageHead(model.config.encoder.hidden_dim, ("en", "fr", "de"))
        loaded.language_head.out.weight.zero_()
        loaded.language_head.out.bias.copy_(torch.tensor([0.0, 1.0, 2.0]))
    recognizer = NarRecognizer(loaded, tokenizer, name="x")
    recognizer.languages = ("en", "fr", "de")
    several = ((), ("fr", "en"), ("en",), ("de", "fr"))
    answers = recognizer.recognize([Request(tone(1.0), Task(languages=each)) for each in several])
    assert [each.language for each in answers if isinstance(each, Hypothesis)] == ["de", "fr", "en", "de"]
    loaded.language_head = None
    with pytest.raises(UnsupportedTaskError, match="cannot choose among fr, en"):
        recognizer.limits(Task(languages=("fr", "en")))
    model.language_head = None
    assert recognize_clips(NarRecognizer(model, tokenizer, name="x"), [tone(1.0)], Task())[0].language is None


def test_a_transcript_is_in_the_language_that_lasts_longest() -> None:
    def respond(clip: Waveform) -> Hypothesis:
        return Hypothesis("wort", language="de" if clip.samples.max() > 0.05 else "en")

    # Twenty seconds loud, ten faint.
    wave = Waveform(np.concatenate((tone(20.0).samples, tone(10.0, level_db=-40.0).samples)))
    fake = FakeRecognizer(respond, max_clip_s=5.0, languages=("en", "de"))
    assert Transcriber(fake).transcribe(wave, vad=False).language == "de"
    assert Transcriber(fake).transcribe(wave, language="en", vad=False).language == "en"
    silent = FakeRecognizer(lambda clip: Hypothesis("", language="de"), languages=("en", "de"))
    assert Transcriber(silent).transcribe(wave, vad=False).language is None


def test_a_model_of_two_languages_learns_to_tell_them_apart(tmp_path: Path) -> None:
    data = make_corpus(tmp_path)
    rows = [json.loads(line) for line in data.read_text().splitlines()]
    for number, row in enumerate(rows):
        row["language"] = "de" if number % 2 else "en"
    data.write_text("\n".join(map(json.dumps, rows)))
    recipe = replace(small_recipe(), language=("en", "de"), letters="all")
    build(recipe, Materials(data, tmp_path / "run"), ("tokenizer", "encoder", "editor", "export"), silent)
    log = [json.loads(line) for line in (tmp_path / "run" / "encoder" / "log.jsonl").read_text().splitlines()]
    assert any("language" in row for row in log) and any("language_errors" in row for row in log)
    model, config, _ = nar.load_nar(tmp_path / "run" / "model")
    assert config.languages == ("en", "de") and model.language_head is not None
    averages = load_file(tmp_path / "run" / "encoder" / "state.safetensors")
    assert torch.allclose(model.language_head.out.weight, averages["ema.language_head.out.weight"], atol=1e-2)
    (hypothesis,) = recognize_clips(load_model(tmp_path / "run" / "model").recognizer, [tone(1.0)], Task())
    assert hypothesis.language in ("en", "de")

    books = tmp_path / "books"
    for name, words in (("en", WORDS[:7]), ("de", WORDS[7:])):
        (books / name).mkdir(parents=True)
        draw = random.Random(0)  # no line twice: what n-grams have read elsewhere is not held out
        lines = [" ".join(draw.choices(words, k=9)).capitalize() + "." for _ in range(40)]
        (books / name / "book.txt").write_text("\n".join(lines), encoding="utf-8")
    units = {"words": [2, 3], "batch_s": 4, "text_batch_s": 8, "text_share": 0.5, "epoch_batches": 4}
    spliced = small_tiny_recipe(
        {
            "language": ["en", "de"],
            "letters": "all",
            "draft_lm": {"order": 2, "held_out": 2},
            "encoder_cache": {"renderings": 1, "least_score": -100.0},
            "unit_selection": units,
        }
    )
    build(spliced, Materials(data, tmp_path / "both", books), ("tokenizer", "encoder", "draft_lm", "editor"), silent)
    (books / "de" / "book.txt").unlink()
    (books / "de").rmdir()
    with pytest.raises(DataError, match="no folder de in it"):
        build(spliced, Materials(data, tmp_path / "both", books), ("lm",), silent)

    further = replace(recipe, vocab_size=280, encoder_from=str(tmp_path / "run" / "model"))
    messages: list[str] = []
    build(further, Materials(data, tmp_path / "more"), ("tokenizer", "encoder"), messages.append)
    assert any("new are out_bpe.weight, out_bpe.bias" in line for line in messages)


def test_an_encoder_begins_with_the_rows_it_shares_with_another() -> None:
    sizes = {"num_layers": 2, "hidden_dim": 16, "num_heads": 2, "dim_head": 8, "self_conditioning_layer": 1}
    small = EncoderConfig(**sizes, output_dim=100, bpe_output_dim=30)
    large = replace(small, output_dim=120, bpe_output_dim=40)
    other, encoder = ConformerEncoder(small), ConformerEncoder(large)
    fresh = encoder.out.weight[100:].clone()
    assert transfer_encoder(encoder, other) == ["out_bpe.weight", "out_bpe.bias"]
    assert torch.equal(encoder.layers[1].ff1.up_proj.weight, other.layers[1].ff1.up_proj.weight)
    assert torch.equal(encoder.out.weight[:100], other.out.weight) and torch.equal(encoder.out.weight[100:], fresh)
    assert torch.equal(encoder.out_mid.weight[:, :100], other.out_mid.weight)


def test_a_letter_with_an_accent_begins_as_the_plain_one() -> None:
    sizes = {"num_layers": 2, "hidden_dim": 16, "num_heads": 2, "dim_head": 8, "self_conditioning_layer": 1}
    other = ConformerEncoder(EncoderConfig(**sizes, output_dim=128, bpe_output_dim=30))
    encoder = ConformerEncoder(EncoderConfig(**sizes, output_dim=256, bpe_output_dim=30))
    fresh = encoder.out.weight[ord("ß")].clone()
    transfer_encoder(encoder, other)
    for letter, plain in (("é", "e"), ("ñ", "n"), ("ü", "u")):
        assert torch.equal(encoder.out.weight[ord(letter)], other.out.weight[ord(plain)])
        assert torch.equal(encoder.out_mid.weight[:, ord(letter)], other.out_mid.weight[:, ord(plain)])
        assert encoder.out.bias[ord(letter)] < other.out.bias[ord(plain)]
    assert torch.equal(encoder.out.weight[ord("ß")], fresh)


def test_a_token_begins_with_what_wrote_its_text(tmp_path: Path) -> None:
    old = train_tokenizer(["the rain in the cafe"] * 9, 275, tmp_path / "old.json")
    new = train_tokenizer(["la pluie dans le café"] * 9, 280, tmp_path / "new.json")
    source = DraftHead(8, old.vocab_size, blank=old.vocab_size - 1, window=2)
    head = DraftHead(8, new.vocab_size, blank=new.vocab_size - 1, window=2)
    fresh = head.weight.clone()
    assert transfer_tokens(head, new, source, old) > 100
    (long,) = [row for row in new.encode("dans") if new.decode([row]) == " dans"]
    pieces = old.encode(" dans")
    assert len(pieces) > 1 and torch.allclose(head.weight[long], source.weight[pieces].mean(dim=0))
    inner, accent, plain = new.id_of("e"), new.encode("é")[-1], old.id_of("e")
    assert torch.equal(head.weight[inner], source.weight[plain]) and new.decode([accent]) != "e"
    assert torch.equal(head.weight[head.blank], source.weight[source.blank])
    half = new.encode("漢")[-1]  # a byte of three is no character
    assert torch.equal(head.weight[half], fresh[half])
