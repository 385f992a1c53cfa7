"""Confidence of a word as the probability that it is right: a logistic map from what the posteriors say of it.

The posteriors alone are no such probability: an encoder is sure of letters that an n-gram or an editor had to correct.
The map is fitted on speech that nobody trained on (Platt, 1999) and belongs to a checkpoint; without one the confidence
stays the mean probability of a word's letters.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, NamedTuple

from redline.types import Word, WordTimes

if TYPE_CHECKING:
    from redline.types import Floats, Ints

ALIGNED = ("letters", "length", "pace")
"""What the alignment tells of a word: the log odds of its letters, and the logs of their number and of their pace."""
DECIDED = (*ALIGNED, "tokens")
"""And the log odds of its least likely token, by the network that decided it."""
DRAFTED = (*ALIGNED, "draft")
"""And the log odds of its least likely token, by the head that drafted it, in the frame that is surest of it."""
EDITED = (*DECIDED, "draft")
"""All of these."""
PACE_FLOOR_S = 0.04
"""A word of one frame has a length in time, too."""
LEAST_PROBABILITY = 1e-3
"""Probabilities are kept so far from 0 and 1."""
TOKENS_AROUND_S = 0.16
"""So far from a word, on both sides, its tokens are looked for: heads of characters and of tokens are not of one mind
about when something is said."""


@dataclass(frozen=True)
class LogisticMap:
    """Features -> probability."""

    bias: float
    weights: tuple[float, ...]

    def probability(self, features: Sequence[float]) -> float:
        score = self.bias + sum(weight * each for weight, each in zip(self.weights, features, strict=True))
        return 1.0 / (1.0 + math.exp(-max(-30.0, min(30.0, score))))


class WordEvidence(NamedTuple):
    """What is known of a word beside its alignment: log probabilities of its least likely token, in nats."""

    tokens: float | None = None
    """By the network that decided it."""
    draft: float | None = None
    """By the head that drafted it."""


@dataclass(frozen=True)
class ConfidenceMaps:
    """The maps of a checkpoint, each for words of which so much is known."""

    aligned: LogisticMap
    decided: LogisticMap | None = None
    drafted: LogisticMap | None = None
    edited: LogisticMap | None = None

    def confidence(self, word: Word, evidence: WordEvidence) -> float:
        """The probability that an aligned word is right; 0 for one that is not heard at all."""
        if not word.confidence:
            return 0.0
        tokens, draft = evidence
        for map, known in (
            (self.edited, evidence if None not in evidence else None),
            (self.drafted, None if draft is None else WordEvidence(draft=draft)),
            (self.decided, None if tokens is None else WordEvidence(tokens)),
        ):
            if map is not None and known is not None:
                return round(map.probability(word_features(word, known)), 3)
        return round(self.aligned.probability(word_features(word)), 3)


def word_features(word: Word, evidence: Iterable[float | None] = ()) -> list[float]:
    """`ALIGNED`, `DECIDED`, `DRAFTED` or `EDITED`: what is known."""
    pace_s = (word.end - word.start + PACE_FLOOR_S) / len(word.text)
    features = [_log_odds(word.confidence or 0.0), math.log(len(word.text)), math.log(pace_s)]
    return features + [_log_odds(math.exp(min(0.0, nats))) for nats in evidence if nats is not None]


def _log_odds(probability: float) -> float:
    kept = min(max(probability, LEAST_PROBABILITY), 1.0 - LEAST_PROBABILITY)
    return math.log(kept / (1.0 - kept))


@dataclass(frozen=True)
class DraftTokens:
    """The likeliest tokens of every frame of a clip, by the head that drafts, and those of the words of its text."""

    ids: Ints  # [T, C]
    log_probs: Floats  # [T, C]
    frame_s: float
    words: Sequence[Sequence[int]]

    def least(self, number: int, word: Word) -> float:
        """The log probability of the least likely token of a word in the frame that is surest of it, in nats."""
        first = max(0, math.floor((word.start - TOKENS_AROUND_S) / self.frame_s))
        frames = slice(first, math.ceil((word.end + TOKENS_AROUND_S) / self.frame_s))
        ids, log_probs = self.ids[frames], self.log_probs[frames]
        floor = math.log(LEAST_PROBABILITY)
        return min(
            (float(log_probs.max(initial=floor, where=ids == token)) for token in self.words[number]), default=floor
        )


@dataclass(frozen=True)
class TextEvidence:
    """What is known of the words of a text."""

    tokens: Sequence[float] | None = None
    """The log probability of the least likely token of each, in nats, by the network that decided them."""
    drafted: DraftTokens | None = None

    def of(self, words: Sequence[Word]) -> list[WordEvidence]:
        """Of each word; nothing where the words are not those of the text."""
        tokens: Sequence[float | None] = [None] * len(words)
        if self.tokens is not None and len(self.tokens) == len(words):
            tokens = self.tokens
        drafted = self.drafted if self.drafted is not None and len(self.drafted.words) == len(words) else None
        drafts = [None if drafted is None else drafted.least(number, word) for number, word in enumerate(words)]
        return [WordEvidence(*each) for each in zip(tokens, drafts, strict=True)]


NOTHING_KNOWN = TextEvidence()


def calibrated(
    words: Sequence[Word], maps: ConfidenceMaps | None, evidence: TextEvidence = NOTHING_KNOWN
) -> tuple[Word, ...]:
    """Aligned words with the confidence that the maps give them; without maps as they are."""
    if maps is None:
        return tuple(words)
    known = zip(words, evidence.of(words), strict=True)
    return tuple(replace(word, confidence=maps.confidence(word, own)) for word, own in known)


@dataclass(frozen=True)
class CalibratedTimes:
    """`WordTimes` whose confidences are calibrated when somebody asks."""

    timing: WordTimes
    maps: ConfidenceMaps
    evidence: TextEvidence = NOTHING_KNOWN

    def __call__(self) -> tuple[Word, ...]:
        return calibrated(self.timing(), self.maps, self.evidence)
