"""Which language was heard for which: the confusion matrix of recognizers that tell the language."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from redline.evaluate.run import Result


@dataclass(frozen=True)
class LanguageScore:
    """How often each language of the references was found to be which."""

    counts: dict[str, dict[str, int]]
    """Rows are what is spoken, columns what was found; every language is in both."""

    @property
    def accuracy(self) -> float:
        """The share of utterances whose language was found."""
        total = sum(sum(row.values()) for row in self.counts.values())
        return sum(row[language] for language, row in self.counts.items()) / max(1, total)

    def __str__(self) -> str:
        """The score in a line: the share, then who was taken for whom."""
        wrong = [
            f"{spoken} taken for {found} {number} x"
            for spoken, row in self.counts.items()
            for found, number in row.items()
            if number and found != spoken
        ]
        return f"{100 * self.accuracy:.1f} % right" + (f"; {', '.join(wrong)}" if wrong else "")

    def to_dict(self) -> dict[str, object]:
        """JSON-ready."""
        return {"accuracy": self.accuracy, "counts": self.counts}


def score(results: Iterable[Result]) -> LanguageScore | None:
    """The languages found in utterances whose manifest tells theirs; None where the recognizer tells none."""
    pairs = Counter(
        (result.utterance.language, result.language)
        for result in results
        if result.language is not None and result.utterance.language
    )
    if not pairs:
        return None
    names = sorted({name for pair in pairs for name in pair})
    return LanguageScore({spoken: {found: pairs[spoken, found] for found in names} for spoken in names})
