"""Word and character error rates of transcripts: pure functions from texts to numbers.

Texts are normalised first, with Whisper's rules for English and its basic rules (lower case, no punctuation) for other
languages, as the Open ASR leaderboard does. Rates are fractions: 0.25 is 25 %.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from typing import Any, Literal

import numpy as np

from redline.errors import DataError, RedlineError
from redline.normalize import normalizer as normalizer
from redline.types import listed

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
class ScoredUtterance:
    """One utterance to score; `draft` is None for a model that writes none."""

    source: str
    language: str
    duration: float
    reference: str
    edited: str
    draft: str | None = None
    speaker: str = ""
    confidence: float | None = None
    """The recognizer's own guess how sure it is, 0 to 1."""
    keywords: tuple[str, ...] = ()
    """Words of the reference that must be heard."""
    distractors: tuple[str, ...] = ()
    """Keywords that the model was told to expect and that were not said."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "keywords", listed(self.keywords))
        object.__setattr__(self, "distractors", listed(self.distractors))


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


def _missing(package: str) -> RedlineError:
    return RedlineError(f"scoring needs {package}, which is not installed: pip install 'redline[evaluate]'")


@dataclass(frozen=True)
class Pair:
    """One step of an alignment: a reference word, a heard word, or both; an empty string is no word."""

    reference: str
    heard: str

    @property
    def kind(self) -> Literal["equal", "substitution", "deletion", "insertion"]:
        """What became of the reference word."""
        if self.reference == self.heard:
            return "equal"
        if not self.heard:
            return "deletion"
        return "substitution" if self.reference else "insertion"


def align_words(references: Sequence[str], hypotheses: Sequence[str]) -> list[list[Pair]]:
    """Normalised texts -> the words of each pair of texts side by side, with the fewest errors."""
    return _aligned("process_words", references, hypotheses)


def count(pairs: Iterable[Pair]) -> Errors:
    """The errors of an alignment."""
    kinds = Counter(pair.kind for pair in pairs)
    length = kinds["equal"] + kinds["deletion"] + kinds["substitution"]
    return Errors(kinds["insertion"], kinds["deletion"], kinds["substitution"], length)


def word_errors(references: Sequence[str], hypotheses: Sequence[str]) -> list[Errors]:
    """The word errors of each pair of normalised texts, aligned for the fewest errors."""
    return [count(pairs) for pairs in align_words(references, hypotheses)]


def character_errors(references: Sequence[str], hypotheses: Sequence[str]) -> list[Errors]:
    """The character errors of each pair of normalised texts; spaces count as characters."""
    return [count(pairs) for pairs in _aligned("process_characters", references, hypotheses)]


def _aligned(process: str, references: Sequence[str], hypotheses: Sequence[str]) -> list[list[Pair]]:
    try:
        import jiwer
    except ImportError as error:
        raise _missing("jiwer") from error
    _check_lists(references, hypotheses)
    if len(references) != len(hypotheses):
        raise DataError(f"{len(references)} references but {len(hypotheses)} hypotheses; each needs its own")
    if not references:
        return []
    output = getattr(jiwer, process)(list(references), list(hypotheses))
    found = []
    for said, heard, chunks in zip(output.references, output.hypotheses, output.alignments, strict=True):
        pairs = []
        for chunk in chunks:
            left = said[chunk.ref_start_idx : chunk.ref_end_idx]
            right = heard[chunk.hyp_start_idx : chunk.hyp_end_idx]
            pairs += [Pair(*pair) for pair in zip_longest(left, right, fillvalue="")]
        found.append(pairs)
    return found


def _check_lists(references: Sequence[str], hypotheses: Sequence[str]) -> None:
    """Raises `DataError` for a text in place of a list of texts, which would be scored letter by letter."""
    for name, texts in (("references", references), ("hypotheses", hypotheses)):
        if isinstance(texts, str):
            raise DataError(f"{name} is {texts[:32]!r}, a single text; give a list of texts, [{name}]")


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


def second_opinion(references: Sequence[str], hypotheses: Sequence[str]) -> Errors | None:
    """The word errors of all texts as kaldialign counts them, or None where it is not installed.

    Two scorers must agree on the number of errors; how it is divided into insertions and deletions may differ.
    """
    try:
        import kaldialign
    except ImportError:
        return None
    _check_lists(references, hypotheses)
    found = Errors()
    for reference, hypothesis in zip(references, hypotheses, strict=True):
        said = reference.split()
        counts = kaldialign.edit_distance(said, hypothesis.split())
        found += Errors(counts["ins"], counts["del"], counts["sub"], len(said))
    return found


@dataclass(frozen=True)
class Comparison:
    """Two systems on the same utterances; negative differences mean that the second makes fewer errors."""

    difference: float
    """Error rate of the second minus that of the first."""
    interval: tuple[float, float]
    """95 %, by paired bootstrap."""
    wins: int
    """Utterances on which the second makes fewer errors."""
    losses: int
    ties: int

    @property
    def significant(self) -> bool:
        """Whether the interval leaves out zero."""
        return self.interval[0] > 0 or self.interval[1] < 0


def compare(first: Sequence[Errors], second: Sequence[Errors], *, seed: int = 0, draws: int = 1000) -> Comparison:
    """Paired bootstrap of two systems: the same utterances are drawn for both (Bisani and Ney, ICASSP 2004)."""
    if len(first) != len(second) or any(a.length != b.length for a, b in zip(first, second, strict=False)):
        raise DataError("only systems that heard the same utterances can be compared")
    change = np.array([b.count - a.count for a, b in zip(first, second, strict=True)], dtype=np.float64)  # [n]
    lengths = np.array([one.length for one in first], dtype=np.float64)
    random = np.random.default_rng(seed)
    rates = []
    for _ in range(draws):
        drawn = random.integers(max(1, len(change)), size=len(change))
        if (length := lengths[drawn].sum()) > 0:
            rates.append(change[drawn].sum() / length)
    low, high = np.percentile(rates, [2.5, 97.5]) if rates else (0.0, 0.0)
    return Comparison(
        float(change.sum() / max(lengths.sum(), 1.0)),
        (float(low), float(high)),
        int((change < 0).sum()),
        int((change > 0).sum()),
        int((change == 0).sum()),
    )


def relative_reduction(before: Errors, after: Errors) -> float | None:
    """The part of the errors of `before` that `after` no longer has, or None when there were none."""
    return (before.count - after.count) / before.count if before.count else None


def score(references: Sequence[str], hypotheses: Sequence[str], *, seed: int = 0) -> Score:
    """The errors of normalised texts and the interval of their word error rate."""
    words = word_errors(references, hypotheses)
    return Score(total(words), total(character_errors(references, hypotheses)), interval(words, seed=seed))


def report(group: str, items: Sequence[ScoredUtterance], *, seed: int = 0) -> Report:
    """Score a group of utterances; the draft is scored where every answer with a text has one: without a text a
    recognizer was not asked, or nothing is left of its draft."""
    references = [normalizer(item.language)(item.reference) for item in items]
    edited = [normalizer(item.language)(item.edited) for item in items]
    drafted = any(item.draft is not None for item in items)
    drafts = [
        normalizer(item.language)(item.draft or "")
        for item in items
        if item.draft is not None or (drafted and not item.edited.strip())
    ]
    return Report(
        group,
        len(items),
        sum(item.duration for item in items),
        score(references, edited, seed=seed),
        score(references, drafts, seed=seed) if items and len(drafts) == len(items) else None,
    )


def reports(items: Sequence[ScoredUtterance], *, seed: int = 0) -> list[Report]:
    """One report per source, and one of all human speech where it has several sources."""
    sources = sorted({item.source for item in items})
    found = [report(source, [item for item in items if item.source == source], seed=seed) for source in sources]
    human = [item for item in items if item.source != SYNTHETIC]
    if len({item.source for item in human}) > 1:
        found.append(report(ALL, human, seed=seed))
    return found
