"""Word and character error rates of transcripts: pure functions from texts to numbers.

Texts are normalised first, with Whisper's rules for English and its basic rules (lower case, no punctuation) for other
languages, as the Open ASR leaderboard does. Rates are fractions: 0.25 is 25 %.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from redline.errors import DataError, RedlineError

SYNTHETIC = "synthetic"
"""The `source` of speech made from text: its scores are never mixed with those of human voices."""
ALL = "all human speech"


@dataclass(frozen=True)
class Errors:
    """Counts of errors against `length` reference units (words or characters)."""

    insertions: int = 0
    deletions: int = 0
    substitutions: int = 0
    length: int = 0

    @property
    def count(self) -> int:
        return self.insertions + self.deletions + self.substitutions

    @property
    def rate(self) -> float:
        """Errors per reference unit; 0 where there is neither reference nor error, infinite without a reference."""
        if self.length == 0:
            return float("inf") if self.count else 0.0
        return self.count / self.length

    def __add__(self, other: Errors) -> Errors:
        return Errors(
            self.insertions + other.insertions,
            self.deletions + other.deletions,
            self.substitutions + other.substitutions,
            self.length + other.length,
        )


@dataclass(frozen=True)
class Item:
    """One utterance to score; `draft` is None for a model that writes none."""

    source: str
    language: str
    duration: float
    reference: str
    edited: str
    draft: str | None = None


@dataclass(frozen=True)
class Score:
    """The errors of one kind of text, with the 95 % interval of its word error rate."""

    words: Errors
    characters: Errors
    interval: tuple[float, float]

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready; an infinite rate is null."""
        return {
            "wer": _finite(self.words.rate),
            "wer_interval": [_finite(bound) for bound in self.interval],
            "cer": _finite(self.characters.rate),
            "insertions": self.words.insertions,
            "deletions": self.words.deletions,
            "substitutions": self.words.substitutions,
            "words": self.words.length,
        }


@dataclass(frozen=True)
class Report:
    """The scores of one group of utterances, draft and edited side by side."""

    group: str
    utterances: int
    seconds: float
    edited: Score
    draft: Score | None = None

    @property
    def relative_reduction(self) -> float | None:
        """The part of the draft's word errors that editing removed; negative when it added some."""
        return None if self.draft is None else relative_reduction(self.draft.words, self.edited.words)

    def to_dict(self) -> dict[str, Any]:
        return {
            "group": self.group,
            "utterances": self.utterances,
            "hours": round(self.seconds / 3600, 4),
            "draft": self.draft.to_dict() if self.draft else None,
            "edited": self.edited.to_dict(),
            "relative_reduction": self.relative_reduction,
        }


def _finite(value: float) -> float | None:
    return value if np.isfinite(value) else None


@lru_cache
def normalizer(language: str) -> Callable[[str], str]:
    """The normaliser of a language; raises `RedlineError` when the package that has it is not installed."""
    try:
        from whisper_normalizer.basic import BasicTextNormalizer
        from whisper_normalizer.english import EnglishTextNormalizer
    except ImportError as error:
        raise _missing("whisper-normalizer") from error
    make: Callable[[], Callable[[str], str]] = EnglishTextNormalizer if language == "en" else BasicTextNormalizer
    return make()


def _missing(package: str) -> RedlineError:
    return RedlineError(f"scoring needs {package}, which is not installed: pip install 'redline[evaluate]'")


def word_errors(references: Sequence[str], hypotheses: Sequence[str]) -> list[Errors]:
    """The word errors of each pair of normalised texts, aligned for the fewest errors."""
    return _align("process_words", references, hypotheses)


def character_errors(references: Sequence[str], hypotheses: Sequence[str]) -> list[Errors]:
    """The character errors of each pair of normalised texts; spaces count as characters."""
    return _align("process_characters", references, hypotheses)


def _align(process: str, references: Sequence[str], hypotheses: Sequence[str]) -> list[Errors]:
    try:
        import jiwer
    except ImportError as error:
        raise _missing("jiwer") from error
    if len(references) != len(hypotheses):
        raise DataError(f"{len(references)} references but {len(hypotheses)} hypotheses; each needs its own")
    if not references:
        return []
    output = getattr(jiwer, process)(list(references), list(hypotheses))
    errors = []
    for reference, chunks in zip(output.references, output.alignments, strict=True):
        counts = {"insert": 0, "delete": 0, "substitute": 0, "equal": 0}
        for chunk in chunks:
            lengths = (chunk.ref_end_idx - chunk.ref_start_idx, chunk.hyp_end_idx - chunk.hyp_start_idx)
            counts[chunk.type] += max(lengths)
        errors.append(Errors(counts["insert"], counts["delete"], counts["substitute"], len(reference)))
    return errors


def total(errors: Iterable[Errors]) -> Errors:
    """The sum: a corpus error rate weighs every reference word alike, not every utterance."""
    return sum(errors, Errors())


def interval(errors: Sequence[Errors], *, seed: int = 0, draws: int = 1000) -> tuple[float, float]:
    """The 95 % bootstrap interval of the error rate, with utterances drawn with replacement.

    Source: Bisani and Ney, Bootstrap estimates for confidence intervals in ASR performance evaluation, ICASSP 2004.
    """
    counts = np.array([one.count for one in errors], dtype=np.float64)  # [n]
    lengths = np.array([one.length for one in errors], dtype=np.float64)  # [n]
    if lengths.sum() == 0:
        rate = total(errors).rate
        return rate, rate
    random = np.random.default_rng(seed)
    rates = []
    for _ in range(draws):
        drawn = random.integers(len(errors), size=len(errors))
        if (length := lengths[drawn].sum()) > 0:
            rates.append(counts[drawn].sum() / length)
    low, high = np.percentile(rates, [2.5, 97.5])
    return float(low), float(high)


def relative_reduction(before: Errors, after: Errors) -> float | None:
    """The part of the errors of `before` that `after` no longer has, or None when there were none."""
    return (before.count - after.count) / before.count if before.count else None


def score(references: Sequence[str], hypotheses: Sequence[str], *, seed: int = 0) -> Score:
    """The errors of normalised texts and the interval of their word error rate."""
    words = word_errors(references, hypotheses)
    return Score(total(words), total(character_errors(references, hypotheses)), interval(words, seed=seed))


def report(group: str, items: Sequence[Item], *, seed: int = 0) -> Report:
    """Score a group of utterances; the draft is scored where every one of them has a draft."""
    references = [normalizer(item.language)(item.reference) for item in items]
    edited = [normalizer(item.language)(item.edited) for item in items]
    drafts = [normalizer(item.language)(item.draft) for item in items if item.draft is not None]
    return Report(
        group,
        len(items),
        sum(item.duration for item in items),
        score(references, edited, seed=seed),
        score(references, drafts, seed=seed) if items and len(drafts) == len(items) else None,
    )


def reports(items: Sequence[Item], *, seed: int = 0) -> list[Report]:
    """One report per source, and one of all human speech where it has several sources."""
    sources = sorted({item.source for item in items})
    found = [report(source, [item for item in items if item.source == source], seed=seed) for source in sources]
    human = [item for item in items if item.source != SYNTHETIC]
    if len({item.source for item in human}) > 1:
        found.append(report(ALL, human, seed=seed))
    return found
