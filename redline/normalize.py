"""Text normalisation: what error rates are counted on, and the spoken form that models without punctuation are taught.

Scores of an evaluation and those that are watched while a model learns come from the same texts.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Callable
from functools import lru_cache
from typing import Literal

from redline.errors import packages_of

Letters = Literal["a-z", "all"]
"""What spoken words are made of: `a-z` for English, `all` for other languages."""


@lru_cache
def normalizer(language: str) -> Callable[[str], str]:
    """Whisper's normaliser for English, its basic one (lower case, no punctuation) for other languages.

    Raises `RedlineError` when the package that has it is not installed.
    """
    with packages_of("evaluate", "scoring"):
        from whisper_normalizer.basic import BasicTextNormalizer
        from whisper_normalizer.english import EnglishTextNormalizer
    make: Callable[[], Callable[[str], str]] = EnglishTextNormalizer if language == "en" else BasicTextNormalizer
    return make()


@lru_cache(maxsize=1 << 16)
def normalised(text: str, language: str) -> str:
    """The words of a text as its normaliser leaves them; empty where it leaves none."""
    return " ".join(normalizer(language)(text).split())


def spoken(text: str, letters: Letters = "a-z") -> str:
    """Lower-case words of letters and apostrophes: what models without a punctuation head are taught to write.

    `a-z` is for English and takes accents off; `all` keeps the letters, accents and digits of every language.
    """
    return " ".join(spoken_words(text, letters)).lower()


def letters_of(language: str) -> Letters:
    """What the texts of a language are made of; a manifest without languages is taken for English."""
    return "a-z" if language in ("", "en") or language.startswith("en-") else "all"


def spoken_words(text: str, letters: Letters) -> list[str]:
    """The words of a text without marks, in the case in which they are written."""
    text = text.replace("\u2019", "'").replace("\u2018", "'")
    if letters == "all":
        text = unicodedata.normalize("NFKC", text)
        # Vowel signs of many scripts are marks (M), not letters.
        chars = (
            char if char.isalnum() or char == "'" or unicodedata.category(char)[0] == "M" else " " for char in text
        )
    else:
        text = "".join(char for char in unicodedata.normalize("NFKD", text) if not unicodedata.combining(char))
        chars = (char if char.isascii() and (char.isalpha() or char == "'") else " " for char in text)
    # Apostrophes at the ends are quotation marks far more often than they are part of the word.
    words = (word.strip("'") for word in "".join(chars).split())
    return [word for word in words if word]
