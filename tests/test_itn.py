"""Spelled numbers as digits."""

from __future__ import annotations

import builtins
from typing import Any

import pytest

from redline.errors import RedlineError
from redline.itn import inverse_normalize
from redline.testing import FakeRecognizer, tone
from redline.transcriber import Model
from redline.types import Hypothesis


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
