"""Written words: "Well," is the spoken word "well", begun with a capital and followed by a comma.

A line in written form has one word between two spaces, each with at most one mark at its end, so that `plain` of it is
what was spoken. Models write plain words; for each of them a head may tell its form.
"""

from __future__ import annotations

import re
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from itertools import accumulate

MARKS = ("", ",", ".", "?", "!", ";", ":")
"""What may follow a word; the order is that of the rows in checkpoints."""
ENDS = ".?!"
"""Those that end a sentence."""


@dataclass(frozen=True)
class Punctuation:
    """How a word is written."""

    capital: bool = False
    mark: str = ""

    @classmethod
    def of(cls, word: str) -> Punctuation:
        """The form of one written word."""
        return cls(word[:1].isupper(), word[-1:] if word[-1:] in MARKS else "")

    def restore(self, word: str) -> str:
        """Write a plain word in this form."""
        return (word[:1].upper() if self.capital else word[:1]) + word[1:] + self.mark


def strip_punctuation(written: str) -> str:
    """The spoken words of a line in written form."""
    return " ".join(word.rstrip("".join(MARKS)).lower() for word in written.split())


def word_pieces(pieces: Sequence[str]) -> list[list[int]]:
    """The places of the pieces of each word; one that begins with a space begins a word, spaces alone are no piece."""
    words: list[list[int]] = []
    begins = True
    for place, piece in enumerate(pieces):
        begins = begins or piece[:1].isspace()
        if piece.strip():
            if begins:
                words.append([])
            words[-1].append(place)
            begins = False
    return words


def restore_pieces(pieces: Sequence[str], forms: Sequence[Punctuation]) -> list[str]:
    """Write the pieces of a text in the forms that stand for each of them.

    A word's capital is that of its first piece, its mark that of its last one.
    """
    dressed = list(pieces)
    for word in word_pieces(pieces):
        first, last = word[0], word[-1]
        body = dressed[first].lstrip()
        space = dressed[first][: len(dressed[first]) - len(body)]
        dressed[first] = space + Punctuation(forms[first].capital).restore(body)
        dressed[last] += forms[last].mark
    return dressed


def restore_casing(text: str, terms: Sequence[str]) -> str:
    """A text in which each term that stands there as whole words has the capitals it is given with.

    Nothing else changes: no capital goes, and the text stays as long as it was.
    """
    for term in terms:
        if term != term.lower():
            text = _as_words(term).sub(partial(_with_capitals, " ".join(term.split())), text)
    return text


def keyword_spans(pieces: Sequence[str], terms: Sequence[str]) -> list[tuple[int, int]]:
    """Where terms stand in a text as whole words, whatever their case: first piece, and the one behind the last."""
    text = "".join(pieces)
    ends = list(accumulate(map(len, pieces)))
    found = (match.span() for term in terms for match in _as_words(term).finditer(text))
    return [(bisect_right(ends, start), bisect_left(ends, end) + 1) for start, end in found]


@lru_cache(maxsize=4096)
def _as_words(term: str) -> re.Pattern[str]:
    """A term that stands as whole words."""
    return re.compile(rf"(?<!\w){r' '.join(map(re.escape, term.split()))}(?!\w)", re.IGNORECASE)


def _with_capitals(term: str, found: re.Match[str]) -> str:
    pairs = zip(found[0], term, strict=True)
    return "".join(char.upper() if one.isupper() and len(char.upper()) == 1 else char for char, one in pairs)


def restore_keywords(pieces: Sequence[str], terms: Sequence[str]) -> list[str]:
    """The pieces of a text, as `spelled` writes it."""
    text = restore_casing("".join(pieces), terms)
    ends = list(accumulate(map(len, pieces)))
    return [text[end - len(piece) : end] for piece, end in zip(pieces, ends, strict=True)]
