"""Spelled numbers as digits."""

from __future__ import annotations

import builtins
from typing import Any

import pytest

from redline.errors import RedlineError
from redline.itn import inverse_normalize
from redline.testing import FakeRecognizer, tone
from redline.transcriber import Model
from redline.types import Hypothesis, Word
from redline.word_rewriting import rewritten


@pytest.mark.parametrize(
    ("language", "spoken", "written"),
    [
        ("en", "one of us had twenty three cats", "one of us had 23 cats"),
        ("de", "dreiundzwanzig katzen", "23 katzen"),
        ("fr", "vingt-trois chats", "23 chats"),
        ("es", "veintitr\u00e9s gatos", "23 gatos"),
        ("pt", "vinte e tr\u00eas gatos", "23 gatos"),
        ("en", "", ""),
    ],
)
def test_numbers_become_digits(language: str, spoken: str, written: str) -> None:
    assert inverse_normalize(spoken, language) == written


def test_a_transcript_keeps_its_draft_and_gets_digits_only_when_asked() -> None:
    hypothesis = Hypothesis("twenty three cats", draft="twenty tree cats")
    model = Model(FakeRecognizer(lambda clip: hypothesis))
    plain, asked = (model.transcribe(tone(1.0), vad=False, digits=digits) for digits in (False, True))
    assert plain.text == "twenty three cats" and asked.text == "23 cats"
    assert asked.segments[0].text == "23 cats" and asked.segments[0].draft == "twenty tree cats"
    assert [segment.text for segment in model.stream(tone(1.0), vad=False, digits=True)] == ["23 cats"]


def test_words_with_digits_have_the_time_of_all_that_was_said_and_the_least_certainty() -> None:
    spoken = ["we", "saw", "twenty", "three", "cats", "and", "one", "dog", "in", "nineteen", "ninety", "nine"]
    words = tuple(Word(at, at + 0.5, text, 0.9 - at / 20, "Ana") for at, text in enumerate(spoken))
    written = rewritten(words, "we saw 23 cats and one dog in 19 99")
    assert [word.text for word in written] == ["we", "saw", "23", "cats", "and", "one", "dog", "in", "19", "99"]
    assert written[2] == Word(2, 3.5, "23", words[3].confidence, "Ana")
    assert (written[:2], written[3:8]) == (words[:2], words[4:9])
    assert (written[-2].start, written[-1].end) == (9, 11.5) and written[-2].end == written[-1].start
    assert {word.confidence for word in written[-2:]} == {words[-1].confidence}
    assert rewritten((), "19 99") == ()


def test_text_and_words_agree_where_digits_are_asked_for_at_once_or_later() -> None:
    words = (Word(0.1, 0.4, "twenty", 0.9), Word(0.4, 0.6, "three", 0.8), Word(0.7, 0.9, "cats", 1.0))
    expected = [(0.1, 0.6, "23", 0.8), (0.7, 0.9, "cats", 1.0)]
    for hypothesis in (
        Hypothesis("twenty three cats", words=words),
        Hypothesis("twenty three cats", timing=lambda: words),
    ):
        model = Model(FakeRecognizer(lambda clip, answer=hypothesis: answer))
        (segment,) = model.transcribe(tone(1.0), vad=False, digits=True).segments
        assert [(word.start, word.end, word.text, word.confidence) for word in segment.aligned_words()] == expected


def test_what_cannot_be_done_is_said_before_the_work(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(RedlineError, match="known are ca, de, en"):
        inverse_normalize("", "ja")
    real = builtins.__import__

    def without(name: str, *rest: Any, **more: Any) -> Any:
        if name == "text_to_num":
            raise ImportError(name)
        return real(name, *rest, **more)

    monkeypatch.setattr(builtins, "__import__", without)
    recognizer = FakeRecognizer()
    with pytest.raises(RedlineError, match=r"redline\[digits\]"):
        Model(recognizer).transcribe(tone(1.0), digits=True)
    assert [batch for batch in recognizer.batches if batch] == []
