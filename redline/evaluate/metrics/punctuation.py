"""Punctuation marks and capitals, which word error rates do not look at."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from redline.evaluate.metrics.alignment import align_words
from redline.evaluate.result import Result
from redline.punctuation import ENDS, MARKS

_QUIET = "\"'()[]\u201c\u201d\u2018\u2019\u00ab\u00bb-\u2013\u2014\u2026"
_MARKS = "".join(MARKS)
PUNCTUATION_COUNTS = (
    "hits",
    "misses",
    "false_alarms",
    "end_hits",
    "end_misses",
    "end_false_alarms",
    "same_case",
    "words",
)

PrintedWord = tuple[str, bool, str]
"""A word in small letters without marks, whether it has a capital, and the mark behind it."""
NO_WORD: PrintedWord = ("", False, "")


def printed_words(text: str) -> list[PrintedWord]:
    """The words of a printed text."""
    words: list[PrintedWord] = []
    for part in text.split():
        body = part.strip(_QUIET)
        bare = body.rstrip(_MARKS)
        mark = next((char for char in body[len(bare) :] if char in MARKS), "")
        if word := bare.strip(_QUIET):
            words.append((word.lower(), word[0].isupper(), mark))
        elif words and mark and not words[-1][2]:
            words[-1] = (*words[-1][:2], mark)
    return words


def score_punctuation(results: Sequence[Result]) -> dict[str, Any] | None:
    """F1 of marks (`f1`) and of ends of sentences, any for any other (`end_f1`), and `case_accuracy` of equal words.

    A hit is a mark of the reference that stands behind the same word. References all in capitals or in small letters,
    as in LibriSpeech, tell nothing and are left out; None where no other is there.
    """
    printed = [
        row for row in results if row.utterance.text not in (row.utterance.text.upper(), row.utterance.text.lower())
    ]
    if not printed:
        return None
    counts = Counter(dict.fromkeys(PUNCTUATION_COUNTS, 0))
    for result in printed:
        reference, hypothesis = printed_words(result.utterance.text), printed_words(result.edited)
        left, right = iter(reference), iter(hypothesis)
        for pair in align_words(*(" ".join(word for word, _, _ in words) for words in (reference, hypothesis))):
            _, capital, mark = next(left) if pair.reference else NO_WORD
            _, answer_capital, answer_mark = next(right) if pair.hypothesis else NO_WORD
            _count(counts, "", mark == answer_mark, bool(mark), bool(answer_mark))
            end, answer_end = mark in ENDS and bool(mark), answer_mark in ENDS and bool(answer_mark)
            _count(counts, "end_", end == answer_end, end, answer_end)
            if pair.kind == "equal":
                counts.update(words=1, same_case=capital == answer_capital)
    case_accuracy = counts["same_case"] / max(1, counts["words"])
    rates = {"f1": _f1(counts, ""), "end_f1": _f1(counts, "end_"), "case_accuracy": case_accuracy}
    return {**rates, **counts, "utterances": len(printed)}


def _count(counts: Counter[str], prefix: str, same: bool, in_reference: bool, in_answer: bool) -> None:
    counts[f"{prefix}hits"] += same and in_reference
    counts[f"{prefix}misses"] += in_reference and not same
    counts[f"{prefix}false_alarms"] += in_answer and not same


def _f1(counts: Counter[str], prefix: str) -> float:
    hits, misses, false_alarms = (counts[f"{prefix}{name}"] for name in ("hits", "misses", "false_alarms"))
    return 2 * hits / max(1, 2 * hits + misses + false_alarms)


def describe_punctuation(score: dict[str, Any]) -> str:
    """The score in a line."""
    return (
        f"punctuation F1 {100 * score['f1']:.1f} % (ends of sentences {100 * score['end_f1']:.1f} %), "
        f"case right for {100 * score['case_accuracy']:.1f} % of {score['words']} words heard right"
    )
