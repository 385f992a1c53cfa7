"""Punctuation and casing: restore them on bare words, strip them from written ones.

A line in written form has one word between two spaces, each with at most one mark at its end, so that stripping it
gives what was spoken. Models write bare words; a head may predict the casing and punctuation of each.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

MARKS = ("", ",", ".", "?", "!", ";", ":")
"""What may follow a word; the order is that of the rows in checkpoints."""
ENDS = ".?!"
"""Those that end a sentence."""


@dataclass(frozen=True)
class Punctuation:
    """Casing and punctuation of one word."""

    capital: bool = False
    mark: str = ""

    @classmethod
    def of(cls, word: str) -> Punctuation:
        return cls(word[:1].isupper(), word[-1:] if word[-1:] in MARKS else "")

    def restore(self, word: str) -> str:
        """A bare word with this casing and punctuation."""
        return (word[:1].upper() if self.capital else word[:1]) + word[1:] + self.mark


def strip_punctuation(written: str) -> str:
    """The bare lower-case words of a line in written form."""
    return " ".join(word.rstrip("".join(MARKS)).lower() for word in written.split())


def word_pieces(pieces: Sequence[str]) -> list[list[int]]:
    """Indices of the pieces of each word; a leading space begins a word, a piece of spaces alone is skipped."""
    words: list[list[int]] = []
    begins = True
    for index, piece in enumerate(pieces):
        begins = begins or piece[:1].isspace()
        if piece.strip():
            if begins:
                words.append([])
            words[-1].append(index)
            begins = False
    return words


def restore_pieces(pieces: Sequence[str], predicted: Sequence[Punctuation]) -> list[str]:
    """The pieces of a text with the punctuation that is predicted at each: a word's casing is that of its first piece,
    its mark that of its last one."""
    restored = list(pieces)
    for word in word_pieces(pieces):
        first, last = word[0], word[-1]
        bare = restored[first].lstrip()
        space = restored[first].removesuffix(bare)
        restored[first] = space + Punctuation(predicted[first].capital).restore(bare)
        restored[last] += predicted[last].mark
    return restored
