"""Punctuation marks and capitals, which word error rates do not look at."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from redline.evaluate.metrics.alignment import align_words
from redline.evaluate.result import Result
from redline.punctuation import ENDS, MARKS

_QUIET = "\"'()[]\u201c\u201d\u2018\u2019\u00ab\u00bb-\u2013\u2014\u2026"
_MARKS = "".join(MARKS)

PrintedWord = tuple[str, bool, str]
"""A word in small letters without marks, whether it has a capital, and the mark behind it."""
NO_WORD: PrintedWord = ("", False, "")


def printed_words(text: str) -> list[PrintedWord]:
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
    marks: list[tuple[str, str]] = []  # behind each word of the reference, and of the answer beside it
    same_case: list[bool] = []
    for result in printed:
        reference, hypothesis = printed_words(result.utterance.text), printed_words(result.edited)
        left, right = iter(reference), iter(hypothesis)
        for pair in align_words(*(" ".join(word for word, _, _ in words) for words in (reference, hypothesis))):
            _, capital, mark = next(left) if pair.reference else NO_WORD
            _, answer_capital, answer_mark = next(right) if pair.hypothesis else NO_WORD
            marks.append((mark, answer_mark))
            if pair.kind == "equal":
                same_case.append(capital == answer_capital)
    ends = [("." if mark and mark in ENDS else "", "." if answer and answer in ENDS else "") for mark, answer in marks]
    counts = {**_counts("", marks), **_counts("end_", ends), "same_case": sum(same_case), "words": len(same_case)}
    return {"case_accuracy": sum(same_case) / max(1, len(same_case)), **counts, "utterances": len(printed)}


def _counts(prefix: str, pairs: Sequence[tuple[str, str]]) -> dict[str, float]:
    """What became of the marks in the first places of pairs, false alarms of those in the second, and F1."""
    hits = sum(mark == answer for mark, answer in pairs if mark)
    misses = sum(bool(mark) for mark, _ in pairs) - hits
    false_alarms = sum(bool(answer) for _, answer in pairs) - hits
    f1 = 2 * hits / max(1, 2 * hits + misses + false_alarms)
    return {
        f"{prefix}{name}": value
        for name, value in (("f1", f1), ("hits", hits), ("misses", misses), ("false_alarms", false_alarms))
    }


def describe_punctuation(score: dict[str, Any]) -> str:
    return (
        f"punctuation F1 {100 * score['f1']:.1f} % (ends of sentences {100 * score['end_f1']:.1f} %), "
        f"case right for {100 * score['case_accuracy']:.1f} % of {score['words']} words heard right"
    )
