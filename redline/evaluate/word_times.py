"""When each word was said: how far the times of words that were heard right are from those of the reference.

AAS is the mean absolute error of word ends, as the reports of the Plus model give it (arXiv 2604.22817); elsewhere the
name is also used for the mean of starts and ends together (arXiv 2301.12343), which is why both errors are told.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from redline.evaluate.run import Result
from redline.evaluate.wer import align_words, normalizer
from redline.types import Word

LIMITS_MS = (20, 50, 100, 200)


@dataclass(frozen=True)
class TimeScore:
    """The time errors of the words of a group of utterances, in milliseconds."""

    words: int
    """Words of the references that are scored; what normalisation takes away, such as "uh", is no word."""
    starts: tuple[float, ...]
    """The absolute error of the start of each word that was heard right."""
    ends: tuple[float, ...]
    utterances: int
    """Those that are scored: reference and answer tell times, or the answer has no text at all."""
    left_out: int
    """Those with times in the reference whose answer has text but tells no times."""
    late_ms: float | None = None
    """Mean error of the ends with its sign: above 0 where they are late; None where no word was matched."""

    @property
    def matched(self) -> int:
        """Words of the references that were heard right."""
        return len(self.ends)

    @property
    def shift_ms(self) -> float | None:
        """Mean absolute error of starts and ends together; None where no word was matched."""
        return float(np.mean(self.starts + self.ends)) if self.ends else None

    def within(self, limit_ms: float) -> float:
        """The share of the matched words that end at most `limit_ms` from where they should."""
        return float(np.mean(np.array(self.ends) <= limit_ms))

    def __str__(self) -> str:
        """The score in a line."""
        if not self.utterances:
            return f"no number: {self.left_out} references have word times, but the model tells none"
        if self.ends:
            near = ", ".join(f"{100 * self.within(limit):.1f} % within {limit} ms" for limit in LIMITS_MS)
            line = (
                f"ends off by {np.mean(self.ends):.1f} ms (AAS), median {np.median(self.ends):.1f} ms, {near}; "
                f"starts off by {np.mean(self.starts):.1f} ms; {self.matched} of {self.words} words matched"
            )
            if self.late_ms is not None:
                line += f"; ends are {abs(self.late_ms):.1f} ms {'late' if self.late_ms >= 0 else 'early'} on average"
        else:
            line = f"no number: none of {self.words} reference words was heard right"
        return line + (f"; {self.left_out} answers without times left out" if self.left_out else "")

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready; errors are null where no word was matched."""
        shares = {f"within_{limit}_ms": self.within(limit) if self.ends else None for limit in LIMITS_MS}
        return {
            "aas_ms": float(np.mean(self.ends)) if self.ends else None,
            "median_end_ms": float(np.median(self.ends)) if self.ends else None,
            "mean_start_ms": float(np.mean(self.starts)) if self.starts else None,
            "median_start_ms": float(np.median(self.starts)) if self.starts else None,
            "shift_ms": self.shift_ms,
            "late_ms": self.late_ms,
            **shares,
            "matched": self.matched,
            "words": self.words,
            "utterances": self.utterances,
            "left_out": self.left_out,
        }


def score(results: Iterable[Result]) -> TimeScore | None:
    """The time errors of all utterances whose reference has timed words; None where none has."""
    asked = [result for result in results if result.item is not None and result.utterance.words]
    if not asked:
        return None
    tells = any(result.words for result in asked)
    scored = [result for result in asked if result.words or (tells and _silent(result))]
    # Word by word on both sides: a normaliser that sees a whole text may join words, and their times would be lost.
    said = [_tokens(result.utterance.words, _language(result)) for result in scored]
    heard = [_tokens(result.words, _language(result)) for result in scored]
    matches = [
        (result.utterance.words[reference], result.words[answer])
        for result, a, b in zip(scored, said, heard, strict=True)
        for reference, answer in match(a, b)
    ]
    return TimeScore(
        sum(len({word for word, _ in tokens}) for tokens in said),
        tuple(_milliseconds(reference.start, answer.start) for reference, answer in matches),
        tuple(_milliseconds(reference.end, answer.end) for reference, answer in matches),
        len(scored),
        len(asked) - len(scored),
        round(1000 * float(np.mean([answer.end - reference.end for reference, answer in matches])), 3)
        if matches
        else None,
    )


def match(said: Sequence[tuple[int, str]], heard: Sequence[tuple[int, str]]) -> list[tuple[int, int]]:
    """Tokens, each with the number of its word -> the words that were heard right, by number in either text.

    A word counts when all of its tokens stand beside those of one heard word: "do not" is no match for "don't", since
    neither of its words begins and ends where the other does.
    """
    (pairs,) = align_words([" ".join(token for _, token in said)], [" ".join(token for _, token in heard)])
    i = j = 0
    partners: dict[int, set[int]] = {}  # of each reference word; -1 stands for an error
    back: dict[int, set[int]] = {}  # of each heard word
    for pair in pairs:
        here = said[i][0] if pair.reference else -1
        there = heard[j][0] if pair.heard else -1
        equal = pair.kind == "equal"
        partners.setdefault(here, set()).add(there if equal else -1)
        back.setdefault(there, set()).add(here if equal else -1)
        i += bool(pair.reference)
        j += bool(pair.heard)
    return [
        (here, there)
        for here, theirs in partners.items()
        if here >= 0 and len(theirs) == 1
        for there in theirs
        if there >= 0 and back[there] == {here}
    ]


def _tokens(words: Sequence[Word], language: str) -> list[tuple[int, str]]:
    return [(number, token) for number, word in enumerate(words) for token in _normal(word.text, language)]


@lru_cache(maxsize=1 << 16)
def _normal(word: str, language: str) -> tuple[str, ...]:
    return tuple(normalizer(language)(word).split())


def _language(result: Result) -> str:
    assert result.item is not None
    return result.item.language


def _silent(result: Result) -> bool:
    return result.item is not None and not result.item.edited.strip()


def _milliseconds(one: float, other: float) -> float:
    return round(1000 * abs(one - other), 3)
