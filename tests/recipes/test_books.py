"""Books: spoken and written form of what is printed, and excerpts."""

from __future__ import annotations

import random

import pytest

from redline.normalize import spoken
from redline_recipes.tiny.books import Sentences, excerpt, written


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


def test_sentences_are_whole_and_as_long_as_asked() -> None:
    text = "It was late. The man, who had come from far away, sat down. Why? Mr. J. Smith knew it at the time. He slept"
    sentences = Sentences([text, "and went. So it was!"], (1, 9))
    assert sentences.by_size == {
        3: ["It was late.", "So it was!"],
        1: ["Why?"],
        8: ["Mr. J. Smith knew it at the time."],
    }
    draw = random.Random(0)
    assert {sentences.draw(range(2, 5), draw) for _ in range(50)} == {"It was late.", "So it was!"}
    assert sentences.draw((4, 9), draw) is None


def test_excerpts_are_runs_of_words() -> None:
    text = "It was late. The man, who had come from far away, sat down."
    plainly = [excerpt(text, (3, 5), random.Random(seed)) for seed in range(500)]
    assert all(run in text for run in plainly) and {len(run.split()) for run in plainly} == {3, 4, 5}
    assert excerpt("one two", (3, 5), random.Random(0)) == "one two"
