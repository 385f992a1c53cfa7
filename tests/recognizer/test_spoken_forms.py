"""Keywords that are written otherwise than they are said, in what real models hear."""

from __future__ import annotations

from pathlib import Path

import pytest

from redline import load_model
from redline.recognizer.common import ModelRecognizer
from redline.transcriber import Transcriber

JFK = Path(__file__).parents[1] / "data" / "jfk.flac"
KEYWORDS = ["JFK's Landsleute => fellow americans", "Zebra => striped horse", "country :2"]


@pytest.fixture(scope="module", params=["full", "draft"])
def model(request: pytest.FixtureRequest) -> Transcriber:
    return load_model("tiny", effort=request.param)


def test_the_phrase_stands_where_it_is_said_and_nothing_else_changes(model: Transcriber) -> None:
    plain = model.transcribe(JFK, words=True, keywords=["fellow americans", "country :2"])
    (segment,) = model.transcribe(JFK, words=True, keywords=KEYWORDS).segments
    lower = plain.text.lower()
    assert "fellow americans" in lower and "jfk's landsleute" in segment.text.lower()
    assert segment.text.lower().replace("jfk's landsleute", "fellow americans") == lower
    assert "striped" not in segment.text and "Zebra" not in segment.text
    assert segment.draft is not None and "fellow americans" in segment.draft.lower(), "the draft stays what was heard"
    if segment.edits:
        assert "".join(edit.text for edit in segment.edits).strip() == segment.text
        assert "".join(edit.draft for edit in segment.edits).strip() == segment.draft


def test_its_words_have_the_times_of_what_is_said(model: Transcriber) -> None:
    plain = model.transcribe(JFK, words=True, keywords=["fellow americans", "country :2"]).words
    words = model.transcribe(JFK, words=True, keywords=KEYWORDS).words
    later = model.transcribe(JFK, keywords=KEYWORDS).segments[0].aligned_words()
    at = next(at for at, word in enumerate(words) if word.text.lower().startswith("jfk"))
    said = next(at for at, word in enumerate(plain) if word.text.lower() == "fellow")
    assert words[at].start == plain[said].start and words[at + 1].end == plain[said + 1].end
    assert words[at + 2 :] == plain[said + 2 :] and words[:at] == plain[:said] and later == words
    assert all(word.confidence is not None for word in words)


def test_a_long_list_is_taken_where_no_prompt_holds_it(model: Transcriber) -> None:
    names = [f"Surname{number} of Nowhere" for number in range(2_000)]
    few, many = (model.transcribe(JFK, keywords=[*names[:count], "ask not"]).text for count in (0, 2_000))
    assert "ask not" in few.lower() and few.lower() == many.lower()
    assert isinstance(model.recognizer, ModelRecognizer)
