"""Damage text the way a CTC draft is damaged: sound-alike, lost and doubled letters, lost, split and joined words."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

SOUNDALIKES = (
    "aeiouy",
    "bpdtgk",
    "szcx",
    "fvw",
    "mn",
    "lr",
    "ckq",
    "jg",
    "hw",
    "td",
)
"""Letters that a weak encoder takes for one another."""
DIGRAPHS = {
    "th": ("t", "d", "f"),
    "sh": ("s", "ch"),
    "ch": ("sh", "t", "k"),
    "ph": ("f",),
    "ee": ("i", "ea"),
    "ea": ("e", "ee"),
    "oo": ("u", "o"),
    "ou": ("ow", "o"),
    "ed": ("d", "t", "e"),
    "er": ("ur", "or", "a"),
    "ing": ("in", "en"),
    "igh": ("i",),
    "tion": ("shon", "tion"),
}
_ALIKE = {
    letter: sorted({other for group in SOUNDALIKES if letter in group for other in group if other != letter})
    for letter in "abcdefghijklmnopqrstuvwxyz"
}


@dataclass(frozen=True)
class CorruptionOptions:
    """How much of a text is damaged; every text draws its own rate between the two ends."""

    word_rate: tuple[float, float] = (0.05, 0.6)
    letter_rate: float = 0.25
    """Share of the letters of a damaged word that change."""
    drop_word_share: float = 0.08
    join_or_split_share: float = 0.15


def corrupt(text: str, options: CorruptionOptions, draw: random.Random) -> str:
    """A damaged copy of lower-case text; the same `draw` gives the same damage."""
    rate = draw.uniform(*options.word_rate)
    damaged: list[str] = []
    glue = False
    for word in text.split():
        join = False
        if draw.random() < rate:
            kind = draw.random()
            if kind < options.drop_word_share:
                continue
            if kind < options.drop_word_share + options.join_or_split_share:
                if len(word) > 3 and draw.random() < 0.5:
                    cut = draw.randrange(1, len(word))
                    word = f"{word[:cut]} {word[cut:]}"
                else:
                    join = True
            else:
                word = _respell(word, options.letter_rate, draw)
        if glue and damaged:
            damaged[-1] += word
        elif word:
            damaged.append(word)
        glue = join
    return " ".join(damaged)


def _respell(word: str, letter_rate: float, draw: random.Random) -> str:
    spelled: list[str] = []
    position = 0
    while position < len(word):
        pair = next(
            (pair for pair in (word[position : position + size] for size in (4, 3, 2)) if pair in DIGRAPHS), None
        )
        if pair and draw.random() < letter_rate * 1.5:
            spelled.append(draw.choice(DIGRAPHS[pair]))
            position += len(pair)
            continue
        letter = word[position]
        position += 1
        if draw.random() >= letter_rate:
            spelled.append(letter)
            continue
        kind = draw.random()
        if kind < 0.55 and _ALIKE.get(letter):
            spelled.append(draw.choice(_ALIKE[letter]))
        elif kind < 0.85:
            continue
        else:
            spelled.append(letter + draw.choice("aeiourstln"))
    return "".join(spelled)


def scramble_tokens(tokens: Sequence[int], rate: float, vocabulary: Sequence[int], draw: random.Random) -> list[int]:
    """Replace, drop or double a share of tokens, for drafts that are too clean to teach editing."""
    scrambled: list[int] = []
    for token in tokens:
        if draw.random() >= rate:
            scrambled.append(token)
            continue
        kind = draw.random()
        if kind < 0.6:
            scrambled.append(draw.choice(vocabulary))
        elif kind < 0.8:
            scrambled += [token, draw.choice(vocabulary)]
    return scrambled
