"""The bundled model that answers prompts: text, keywords, times and speakers of human voices."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import redline
from redline.recognizer import ArRecognizer
from redline.types import Task, Waveform
from tests.builders import recognize_clips

jiwer = pytest.importorskip("jiwer")

PLUS = Path(redline.__file__).parent / "assets" / "tiny-plus"
DEMO = PLUS.parent / "demo.flac"
JFK = "and so my fellow americans ask not what your country can do for you ask what you can do for your country"


@pytest.fixture(scope="module")
def model() -> redline.Model:
    return redline.load_model("tiny-plus")


def test_it_is_small_and_has_a_card() -> None:
    assert sum(file.stat().st_size for file in PLUS.iterdir()) <= 8_000_000
    card = (PLUS / "README.md").read_text(encoding="utf-8")
    for part in ("CC BY 4.0", "LibriSpeech", "redline evaluate", "redline train tiny-plus", "ranslation", "cpWER"):
        assert part in card


def test_it_recognises_a_human_voice(model: redline.Model) -> None:
    result = model.transcribe(DEMO)
    assert jiwer.wer(JFK, result.text) <= 0.15
    assert result.model == "tiny-plus" and result.language == "en"
    assert result.segments[0].accepted is not None and result.draft is not None


def test_its_text_is_its_draft_and_exact_drafts_change_nothing(model: redline.Model) -> None:
    trusted = model.transcribe(DEMO)
    assert trusted.text == trusted.draft
    written, checked = (redline.load_model("tiny-plus", drafts=how).transcribe(DEMO) for how in ("none", "exact"))
    assert written.text == checked.text != trusted.text and written.draft is None and checked.draft is not None


def test_it_tells_when_words_are_said(model: redline.Model) -> None:
    result = model.transcribe(DEMO, words=True)
    assert " ".join(word.text for word in result.words) == result.text
    times = [time for word in result.words for time in (word.start, word.end)]
    assert times == sorted(times) and times[-1] <= 11.0 and len(set(times)) > 10
    assert getattr(model.recognizer, "word_confidence", None) is not None, "it is calibrated"


def test_it_tells_who_speaks(model: redline.Model) -> None:
    result = model.transcribe(DEMO, speakers=True)
    assert result.turns and {turn.speaker for turn in result.turns} <= {"1", "2", "3", "4"}
    assert " ".join(turn.text for turn in result.turns) == result.text


def test_it_tells_two_voices_apart_and_one_from_two(model: redline.Model) -> None:
    samples = redline.audio.load(DEMO).samples
    # A voice a fifth lower and slower is another one.
    other = np.interp(np.arange(0, len(samples), 0.8), np.arange(len(samples)), samples).astype(np.float32)
    assert {turn.speaker for turn in model.transcribe(DEMO, speakers=True).turns} == {"1"}
    both = np.concatenate((samples, other))
    turns = model.transcribe(both, sample_rate=16_000, speakers=True).turns
    assert [turn.speaker for turn in turns] == ["1", "2"]
    assert turns[0].end <= len(samples) / 16_000 + 0.5 and turns[1].start >= len(samples) / 16_000 - 0.5


def test_keywords_change_what_is_asked_and_not_what_is_allowed(model: redline.Model) -> None:
    plain = model.transcribe(DEMO).text
    result = model.transcribe(DEMO, keywords=["fellow Americans", "ask not", "<|end_of_text|>"])
    assert "<|" not in result.text and "fellow Americans" in result.text
    assert jiwer.wer(JFK, result.text.lower()) < jiwer.wer(JFK, plain.lower())


def test_silence_gives_empty_text(model: redline.Model) -> None:
    result = model.transcribe(np.zeros(48_000, dtype=np.float32), sample_rate=16_000)
    assert result.text == "" and [notice.code for notice in result.warnings] == ["no-speech"]


def test_alone_equals_in_a_batch(model: redline.Model) -> None:
    recognizer = model.recognizer
    assert isinstance(recognizer, ArRecognizer)
    wave = redline.audio.load(DEMO)
    clips = [Waveform(wave.samples[: 16_000 * seconds]) for seconds in (3, 6, 11)]
    together = recognize_clips(recognizer, clips, Task())
    assert [hypothesis.text for hypothesis in together] == [
        recognize_clips(recognizer, [clip], Task())[0].text for clip in clips
    ]
