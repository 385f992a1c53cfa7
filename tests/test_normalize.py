"""The spoken form of texts."""

from __future__ import annotations

from redline.normalize import letters_of, normalised


def test_letters_are_those_of_the_language() -> None:
    assert letters_of("en-gb") == letters_of("en") == letters_of("") == "a-z" and letters_of("de") == "all"


def test_texts_are_compared_by_the_rules_of_their_language() -> None:
    assert normalised(" MISTER  Twenty-One's colour! ", "en") == "mister 21 is color"
    assert normalised("Für Ärzte!", "de") == "für ärzte"
