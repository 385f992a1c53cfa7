"""Books: spoken and written form of what is printed, and excerpts."""

from __future__ import annotations

import random

import pytest

from redline.normalize import spoken
from redline_recipes.tiny.books import excerpt, written


@pytest.mark.parametrize(
    ("line", "letters", "bare", "printed"),
    [
        ("L\u2019\u00c9t\u00e9, \u00e0 5 h!", "all", "l'\u00e9t\u00e9 \u00e0 5 h", "L'\u00c9t\u00e9, \u00e0 5 h!"),
        ("STRASSE \u2013 fu\u0308nf.", "all", "strasse f\u00fcnf", "STRASSE f\u00fcnf."),
        ("\u0939\u093f\u0928\u094d\u0926\u0940", "all", "\u0939\u093f\u0928\u094d\u0926\u0940", None),
        ("Caf\u00e9 5!", "a-z", "cafe", "Cafe!"),
    ],
)
def test_letters_of_every_language_are_kept_on_demand(line: str, letters: str, bare: str, printed: str | None) -> None:
    assert spoken(line, letters) == bare  # type: ignore[arg-type]
    if printed is not None:
        assert written(line, letters) == printed  # type: ignore[arg-type]


def test_excerpts_begin_and_end_where_sentences_do() -> None:
    text = "It was late. The man, who had come from far away, sat down. Why? Nobody knew it at the time. He slept"
    draw = random.Random(0)
    excerpts = [excerpt(text, (3, 5), draw, sentences=0.6).split() for _ in range(2000)]
    assert all(3 <= len(run) <= 5 and " ".join(run) in text for run in excerpts)
    begins = {"It", "The", "Why?", "Nobody", "He"}
    both = sum(run[0] in begins and run[-1][-1] in ".?" for run in excerpts) / 2000
    begun = sum(run[0] in begins for run in excerpts) / 2000
    ended = sum(run[-1][-1] in ".?" for run in excerpts) / 2000
    assert 0.36 < both < 0.5 and 0.6 < begun < 0.8 and 0.6 < ended < 0.8
    plainly = [excerpt(text, (3, 5), random.Random(seed)).split() for seed in range(500)]
    assert sum(run[0] in begins for run in plainly) < 250 and {len(run) for run in plainly} == {3, 4, 5}
    assert excerpt("one two", (3, 5), draw, sentences=1.0) == "one two"
