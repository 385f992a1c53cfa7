"""Levenshtein alignment of two texts, counts of errors, and their bootstrap intervals."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import astuple, dataclass
from itertools import zip_longest
from typing import Any, Literal

import numpy as np

from redline.errors import DataError, packages_of

DRAWS = 1000  # bootstrap samples of an interval


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
        return self.count / self.length if self.length else float("inf") if self.count else 0.0


@dataclass(frozen=True)
class AlignedPair:
    """One step of an alignment: a unit of the reference, of the hypothesis, or of both; an empty string is none."""

    reference: str
    hypothesis: str

    @property
    def kind(self) -> Literal["equal", "substitution", "deletion", "insertion"]:
        if self.reference == self.hypothesis:
            return "equal"
        if not self.hypothesis:
            return "deletion"
        return "substitution" if self.reference else "insertion"


def align_words(reference: str, hypothesis: str) -> list[AlignedPair]:
    """The words of two normalised texts side by side, with the fewest errors."""
    return _align("process_words", reference, hypothesis)


def align_characters(reference: str, hypothesis: str) -> list[AlignedPair]:
    """The characters of two normalised texts side by side, with the fewest errors; spaces count."""
    return _align("process_characters", reference, hypothesis)


def _align(process: str, reference: str, hypothesis: str) -> list[AlignedPair]:
    with packages_of("evaluate", "scoring"):
        import jiwer
    output = getattr(jiwer, process)([reference], [hypothesis])
    (left,), (right,), (chunks,) = output.references, output.hypotheses, output.alignments
    return [
        AlignedPair(*pair)
        for chunk in chunks
        for pair in zip_longest(
            left[chunk.ref_start_idx : chunk.ref_end_idx], right[chunk.hyp_start_idx : chunk.hyp_end_idx], fillvalue=""
        )
    ]


def count_errors(pairs: Iterable[AlignedPair]) -> Errors:
    kinds = Counter(pair.kind for pair in pairs)
    length = kinds["equal"] + kinds["deletion"] + kinds["substitution"]
    return Errors(kinds["insertion"], kinds["deletion"], kinds["substitution"], length)


def second_opinion(reference: str, hypothesis: str) -> Errors | None:
    """The word errors of two texts as kaldialign counts them, or None where it is not installed.

    Two scorers must agree on the number of errors; how it is divided into insertions and deletions may differ.
    """
    try:
        import kaldialign
    except ImportError:
        return None
    words = reference.split()
    counts = kaldialign.edit_distance(words, hypothesis.split())
    return Errors(counts["ins"], counts["del"], counts["sub"], len(words))


def total(errors: Iterable[Errors]) -> Errors:
    """The sum: a corpus error rate weighs every reference word alike, not every utterance."""
    return Errors(*map(sum, zip(*map(astuple, errors), strict=True)))


def bootstrap_interval(counts: Sequence[int], lengths: Sequence[int], seed: int = 0) -> tuple[float, float]:
    """The 95 % bootstrap interval of sum(counts) / sum(lengths), with utterances drawn with replacement.

    Source: Bisani and Ney, Bootstrap estimates for confidence intervals in ASR performance evaluation, ICASSP 2004.
    """
    values, weights = np.array(counts, dtype=np.float64), np.array(lengths, dtype=np.float64)  # [n], [n]
    random = np.random.default_rng(seed)
    rates = []
    for _ in range(DRAWS):
        drawn = random.integers(max(1, len(values)), size=len(values))
        if (length := weights[drawn].sum()) > 0:
            rates.append(values[drawn].sum() / length)
    low, high = np.percentile(rates, [2.5, 97.5]) if rates else (0.0, 0.0)
    return float(low), float(high)


def compare_errors(first: Sequence[Errors], second: Sequence[Errors]) -> dict[str, Any]:
    """Paired bootstrap of two systems on the same utterances: the same ones are drawn for both.

    `difference` is the error rate of the second minus that of the first, with its 95 % `interval`, `significant` where
    that leaves out zero; `wins`, `losses` and `ties` are utterances on which the second makes fewer, more, as many.
    """
    lengths = [errors.length for errors in first]
    if lengths != [errors.length for errors in second]:
        raise DataError("only systems that recognized the same utterances can be compared")
    changes = [after.count - before.count for before, after in zip(first, second, strict=True)]
    low, high = bootstrap_interval(changes, lengths)
    wins, losses = sum(change < 0 for change in changes), sum(change > 0 for change in changes)
    return {
        "difference": sum(changes) / max(sum(lengths), 1),
        "interval": [low, high],
        "significant": low > 0 or high < 0,
        "wins": wins,
        "losses": losses,
        "ties": len(changes) - wins - losses,
    }
