"""The bundled model hears human voices."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

import redline
from redline import formats
from redline.checkpoints import nar
from redline.punctuation import strip_punctuation

jiwer = pytest.importorskip("jiwer")

TINY = Path(redline.__file__).parent / "assets" / "tiny"
JFK = "and so my fellow americans ask not what your country can do for you ask what you can do for your country"


@pytest.fixture(scope="module")
def model() -> redline.Model:
    return redline.load_model("tiny")


def test_it_is_small_and_has_a_card() -> None:
    assert sum(file.stat().st_size for file in TINY.iterdir()) <= 45_500_000
    card = (TINY / "README.md").read_text(encoding="utf-8")
    for part in ("CC BY 4.0", "LibriSpeech", "Whisper base", "MIT", "WordNet", "redline evaluate", "redline train"):
        assert part in card


def test_it_is_in_the_published_layout() -> None:
    editor, config, folder = nar.load_nar("tiny")
    assert folder == TINY
    assert config.languages == ("en",)
    assert json.loads((folder / "config.json").read_text())["model_type"] == "granite_speech_nar"
    names = set(editor.state_dict())
    assert {"encoder.out_bpe.weight", "projector.window_positions", "language_model.model.norm.weight"} <= names


def test_it_recognises_a_human_voice(model: redline.Model) -> None:
    result = model.transcribe(TINY.parent / "demo.flac")
    assert jiwer.wer(JFK, strip_punctuation(result.text)) <= 0.2
    assert result.language == "en" and result.model == "tiny" and result.duration == pytest.approx(11.0)
    for segment in result.segments:
        assert "".join(edit.text for edit in segment.edits).strip() == segment.text
        assert "".join(edit.draft for edit in segment.edits).strip() == segment.draft


def test_its_text_has_capitals_and_marks_and_its_draft_has_none(model: redline.Model) -> None:
    result = model.transcribe(TINY.parent / "demo.flac")
    letters = set("abcdefghijklmnopqrstuvwxyz' ")
    assert result.draft is not None and set(result.draft) <= letters
    assert set(strip_punctuation(result.text)) <= letters and strip_punctuation(result.text) != result.text
    assert "  " not in result.text and result.text == result.text.strip()
    assert redline.load_model("tiny", punctuate=False).transcribe(TINY.parent / "demo.flac").text == strip_punctuation(
        result.text
    )


def test_keywords_that_are_said_are_heard_and_others_are_not(model: redline.Model) -> None:
    plain_text = model.transcribe(TINY.parent / "demo.flac").draft
    keywords = ["fellow americans", "ask not", "your Country can do", "zebra", "<|end_of_text|>"]
    transcript = model.transcribe(TINY.parent / "demo.flac", keywords=keywords)
    assert transcript.draft is not None and plain_text is not None
    assert jiwer.wer(JFK, transcript.draft) < jiwer.wer(JFK, plain_text)
    assert "fellow americans" in transcript.draft and "Country can do" in transcript.text
    assert "zebra" not in transcript.draft and "<" not in transcript.text
    assert model.transcribe(TINY.parent / "demo.flac", keywords=["zebra", "art"]).draft == plain_text


def test_without_its_n_grams_it_drafts_otherwise(model: redline.Model) -> None:
    greedy = redline.load_model("tiny", draft_lm="none", punctuate=False).transcribe(TINY.parent / "demo.flac")
    draft = model.transcribe(TINY.parent / "demo.flac").draft
    assert draft is not None and greedy.draft is not None and draft != greedy.draft
    assert jiwer.wer(JFK, draft) <= jiwer.wer(JFK, greedy.draft)


def test_silence_gives_empty_text(model: redline.Model) -> None:
    result = model.transcribe(np.zeros(48_000, dtype=np.float32), sample_rate=16_000)
    assert result.text == "" and result.segments == ()
    assert [notice.code for notice in result.warnings] == ["no-speech"]


def test_a_list_equals_its_parts(model: redline.Model) -> None:
    files = [TINY.parent / "demo.flac", *sorted((Path(__file__).parent / "data" / "audio").glob("*.flac"))]
    together = model.transcribe(list(files))
    assert [transcript.text for transcript in together] == [model.transcribe(file).text for file in files]


MULTI = TINY.parent / "tiny-multi"
RUECKKEHR = "durch schlechtes wetter am vorgesehenen landeort wurde die rückkehr mehrfach verschoben"


def test_the_model_of_five_languages_is_small_and_has_a_card() -> None:
    sizes = [file.stat().st_size for file in MULTI.iterdir()]
    assert sum(sizes) <= 60_000_000 and max(sizes) < 40_000_000
    card = (MULTI / "README.md").read_text(encoding="utf-8")
    for part in ("CC BY 4.0", "CC0", "synthetic", "redline evaluate", "redline train tiny-multi", "told, across"):
        assert part in card
    assert nar.load_nar("tiny-multi")[1].languages == ("en", "de", "fr", "es", "pt")


def test_the_model_of_five_languages_tells_which_it_hears() -> None:
    model = redline.load_model("tiny-multi")
    assert getattr(model.recognizer, "word_confidence", None) is not None, "it is calibrated"
    german = Path(__file__).parent / "data" / "audio" / "de_rhasspy-0018.opus"
    transcripts = model.transcribe([german, TINY.parent / "demo.flac"])
    assert [transcript.language for transcript in transcripts] == ["de", "en"]
    assert jiwer.cer(RUECKKEHR, transcripts[0].text) <= 0.3
    assert jiwer.wer(JFK, transcripts[1].text) <= 0.75
    # A language that is named does not change what is heard.
    assert model.transcribe(german, language="de").text == transcripts[0].text


@pytest.mark.parametrize("name", ["tiny", "tiny-multi", "tiny-plus"])
def test_subtitles_are_aligned_in_every_model_and_nothing_else_changes(name: str) -> None:
    model = redline.load_model(name)
    demo = TINY.parent / "demo.flac"
    plain, asked = model.transcribe(demo), model.transcribe(demo, words=True)
    for format in ("srt", "vtt"):
        assert formats.render_transcript(plain, format) == formats.render_transcript(asked, format)
        assert not formats.subtitle_notices(plain, [format])
    assert (
        plain.words == () and plain.text == asked.text and all(not row["words"] for row in plain.to_dict()["segments"])
    )
    (segment,) = plain.segments
    assert segment.aligned_words() == asked.words
