"""Keywords: how many of those that were said are heard, and how many are heard that were not said."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from redline.evaluate.wer import Comparison, Errors, ScoredUtterance, normalizer
from redline.evaluate.wer import compare as compare_errors


@dataclass(frozen=True)
class KeywordScore:
    """How often the keywords of the references were heard, and how often one was heard that was not said."""

    hits: int = 0
    misses: int = 0
    false_alarms: int = 0
    distractors: int = 0
    """Keywords in prompts that were not said."""
    distractors_heard: int = 0
    """Those that were heard all the same; they are false alarms, too."""

    def __add__(self, other: KeywordScore) -> KeywordScore:
        return KeywordScore(*(a + b for a, b in zip(vars(self).values(), vars(other).values(), strict=True)))

    @property
    def recall(self) -> float:
        return self.hits / max(1, self.hits + self.misses)

    @property
    def precision(self) -> float:
        return self.hits / max(1, self.hits + self.false_alarms)

    @property
    def f1(self) -> float:
        """Harmonic mean of precision and recall."""
        both = self.precision + self.recall
        return 2 * self.precision * self.recall / both if both else 0.0

    def __str__(self) -> str:
        """The score in a line."""
        line = (
            f"F1 {100 * self.f1:.1f} %, recall {100 * self.recall:.1f} %, precision {100 * self.precision:.1f} % "
            f"({self.hits} of {self.hits + self.misses} heard, {self.false_alarms} false alarms)"
        )
        return line + (
            f"; {self.distractors_heard} of {self.distractors} distractors heard" if self.distractors else ""
        )

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return {**vars(self), "recall": self.recall, "precision": self.precision, "f1": self.f1}


def score(items: Sequence[ScoredUtterance]) -> KeywordScore | None:
    """The score of the keywords of all items; None where no item has any."""
    if not any(item.keywords for item in items):
        return None
    return sum(counts(items), KeywordScore())


def counts(items: Sequence[ScoredUtterance]) -> list[KeywordScore]:
    """What became of the keywords of all items in each of them.

    A keyword is heard when its normalised words stand together in the normalised text. Every keyword of the set is
    looked for in every text of its language: heard where it was not said, it is a false alarm.
    """
    known: dict[str, set[str]] = {}
    for item in items:
        known.setdefault(item.language, set()).update(_normals(item.keywords, item.language))
    found = []
    for item in items:
        wanted = _normals(item.keywords, item.language)
        others = _normals(item.distractors, item.language)
        looked_for = known[item.language] | others
        most = longest(looked_for)
        said = looked_for & (wanted | phrases(item.reference, item.language, most))
        heard = looked_for & phrases(item.edited, item.language, most)
        others -= said
        found.append(
            KeywordScore(len(said & heard), len(said - heard), len(heard - said), len(others), len(others & heard))
        )
    return found


@lru_cache(maxsize=1 << 16)
def normal(keyword: str, language: str) -> str:
    """The words of a keyword as normalisation leaves them; empty where it leaves none."""
    return " ".join(normalizer(language)(keyword).split())


def _normals(keywords: Iterable[str], language: str) -> set[str]:
    return {word for key in keywords if (word := normal(key, language))}


def longest(keywords: Iterable[str]) -> int:
    """The words of the longest keyword."""
    return max((len(keyword.split()) for keyword in keywords), default=0)


def phrases(text: str, language: str, most: int) -> set[str]:
    """Every run of at most `most` words of a text, normalised."""
    words = normalizer(language)(text).split()
    return {" ".join(words[at : at + size]) for size in range(1, most + 1) for at in range(len(words) - size + 1)}


@dataclass(frozen=True)
class KeywordComparison:
    """The keywords of two systems on the same utterances."""

    first: KeywordScore
    second: KeywordScore
    misses: Comparison
    """Of the shares of keywords that were missed; where it is negative, the second hears more."""

    @property
    def difference(self) -> float:
        """Recall of the second minus that of the first."""
        return 0.0 - self.misses.difference

    @property
    def interval(self) -> tuple[float, float]:
        """95 %, by paired bootstrap."""
        low, high = self.misses.interval
        return 0.0 - high, 0.0 - low

    def __str__(self) -> str:
        """The comparison in a line."""
        one, two = self.first, self.second
        low, high = self.interval
        verdict = "significant" if self.misses.significant else "not significant"
        line = (
            f"keyword recall {100 * one.recall:.1f} -> {100 * two.recall:.1f} %, {100 * self.difference:+.1f} points "
            f"(95 % from {100 * low:+.1f} to {100 * high:+.1f}, {verdict}); "
            f"precision {100 * one.precision:.1f} -> {100 * two.precision:.1f} %, "
            f"F1 {100 * one.f1:.1f} -> {100 * two.f1:.1f} %"
        )
        told = [f"{one.distractors_heard} of {one.distractors}" if one.distractors else "none" for one in (one, two)]
        return line + (f"; distractors heard {' -> '.join(told)}" if one.distractors or two.distractors else "")

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return {
            "first": self.first.to_dict(),
            "second": self.second.to_dict(),
            "recall_difference": self.difference,
            "recall_interval": list(self.interval),
            "significant": self.misses.significant,
            "text": str(self),
        }


def compare(first: Sequence[ScoredUtterance], second: Sequence[ScoredUtterance]) -> KeywordComparison | None:
    """Two systems on the same utterances, in the same order; None where no utterance has keywords."""
    if not any(item.keywords for item in first):
        return None
    one, two = counts(first), counts(second)
    return KeywordComparison(
        sum(one, KeywordScore()), sum(two, KeywordScore()), compare_errors(_misses(one), _misses(two))
    )


def _misses(found: Iterable[KeywordScore]) -> list[Errors]:
    return [Errors(deletions=one.misses, length=one.hits + one.misses) for one in found]
