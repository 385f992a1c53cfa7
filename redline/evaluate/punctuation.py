"""How a text is written: punctuation marks and capitals, scored where word error rates look away."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from redline.evaluate.wer import ScoredUtterance, align_words
from redline.punctuation import ENDS, MARKS

_QUIET = "\"'()[]\u201c\u201d\u2018\u2019\u00ab\u00bb-\u2013\u2014\u2026"


@dataclass(frozen=True)
class WrittenScore:
    """Marks behind words, and capitals of the words that were heard right."""

    hits: int
    """Marks of the references that stand behind the same word."""
    misses: int
    false_alarms: int
    end_hits: int
    """The same for ends of sentences, any of them for any other."""
    end_misses: int
    end_false_alarms: int
    same_case: int
    words: int
    """Words that were heard right."""
    utterances: int

    @property
    def f1(self) -> float:
        """F1 of all marks."""
        return _f1(self.hits, self.misses, self.false_alarms)

    @property
    def end_f1(self) -> float:
        """F1 of ends of sentences."""
        return _f1(self.end_hits, self.end_misses, self.end_false_alarms)

    @property
    def case_accuracy(self) -> float:
        """The share of the words heard right whose first letter is as large as it should be."""
        return self.same_case / max(1, self.words)

    def __str__(self) -> str:
        """The score in a line."""
        return (
            f"punctuation F1 {100 * self.f1:.1f} % (ends of sentences {100 * self.end_f1:.1f} %), "
            f"case right for {100 * self.case_accuracy:.1f} % of {self.words} words heard right"
        )

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        rates = {"f1": self.f1, "end_f1": self.end_f1, "case_accuracy": self.case_accuracy}
        return {**rates, **vars(self)}


def _f1(hits: int, misses: int, false_alarms: int) -> float:
    return 2 * hits / max(1, 2 * hits + misses + false_alarms)


def split(text: str) -> list[tuple[str, bool, str]]:
    """Each word of a printed text: in small letters without marks, whether it has a capital, and the mark behind it."""
    words: list[tuple[str, bool, str]] = []
    for part in text.split():
        body = part.strip(_QUIET)
        mark = next((char for char in body[len(body.rstrip("".join(MARKS))) :] if char in MARKS), "")
        word = body.rstrip("".join(MARKS)).strip(_QUIET)
        if word:
            words.append((word.lower(), word[0].isupper(), mark))
        elif words and mark and not words[-1][2]:
            words[-1] = (*words[-1][:2], mark)
    return words


def score(items: Iterable[ScoredUtterance]) -> WrittenScore | None:
    """Score the utterances whose reference has capitals or marks; None where none has.

    References all in capitals, as in LibriSpeech, tell nothing about case and are left out.
    """
    asked = [item for item in items if item.reference not in (item.reference.upper(), item.reference.lower())]
    if not asked:
        return None
    counts = dict.fromkeys(WrittenScore.__dataclass_fields__, 0) | {"utterances": len(asked)}
    references = [split(item.reference) for item in asked]
    hypotheses = [split(item.edited) for item in asked]
    aligned = align_words([_words(one) for one in references], [_words(one) for one in hypotheses])
    for reference, hypothesis, pairs in zip(references, hypotheses, aligned, strict=True):
        said, heard = iter(reference), iter(hypothesis)
        for pair in pairs:
            _, capital, mark = next(said) if pair.reference else ("", False, "")
            _, heard_capital, heard_mark = next(heard) if pair.heard else ("", False, "")
            _count(counts, "", mark == heard_mark, bool(mark), bool(heard_mark))
            ends, heard_ends = mark in ENDS and bool(mark), heard_mark in ENDS and bool(heard_mark)
            _count(counts, "end_", ends == heard_ends, ends, heard_ends)
            if pair.kind == "equal":
                counts["words"] += 1
                counts["same_case"] += capital == heard_capital
    return WrittenScore(**counts)


def _words(text: Sequence[tuple[str, bool, str]]) -> str:
    return " ".join(word for word, _, _ in text)


def _count(counts: dict[str, int], prefix: str, same: bool, wanted: bool, given: bool) -> None:
    counts[f"{prefix}hits"] += same and wanted
    counts[f"{prefix}misses"] += wanted and not same
    counts[f"{prefix}false_alarms"] += given and not same
