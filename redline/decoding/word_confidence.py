"""Confidence of a word as the probability that it is right: a logistic map from what the posteriors say of it.

The posteriors alone are no such probability: an encoder is sure of letters that an n-gram or an editor had to correct.
The map is fitted on speech that nobody trained on (Platt, 1999) and belongs to a checkpoint; without one the confidence
stays the mean probability of a word's letters.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from redline.types import Word, WordTimes

ALIGNED = ("letters", "length", "pace")
"""What the alignment tells of a word: the log odds of its letters, and the logs of their number and of their pace."""
DECIDED = (*ALIGNED, "tokens")
"""And the log odds of its least likely token, by the network that decided it."""
PACE_FLOOR_S = 0.04
"""A word of one frame has a length in time, too."""
LEAST_PROBABILITY = 1e-3
"""Probabilities are kept so far from 0 and 1."""


@dataclass(frozen=True)
class LogisticMap:
    """Features -> probability."""

    bias: float
    weights: tuple[float, ...]

    def probability(self, features: Sequence[float]) -> float:
        score = self.bias + sum(weight * each for weight, each in zip(self.weights, features, strict=True))
        return 1.0 / (1.0 + math.exp(-max(-30.0, min(30.0, score))))


@dataclass(frozen=True)
class ConfidenceMaps:
    """The maps of a checkpoint: for words of which only the alignment is known, and for those with token posteriors."""

    aligned: LogisticMap
    decided: LogisticMap | None = None

    def confidence(self, word: Word, token_log_prob: float | None) -> float:
        """The probability that an aligned word is right; 0 for one that is not heard at all."""
        if not word.confidence:
            return 0.0
        if token_log_prob is None or self.decided is None:
            return round(self.aligned.probability(word_features(word, None)), 3)
        return round(self.decided.probability(word_features(word, token_log_prob)), 3)


def word_features(word: Word, token_log_prob: float | None) -> list[float]:
    """`DECIDED`, or `ALIGNED` where there is no token posterior."""
    pace_s = (word.end - word.start + PACE_FLOOR_S) / len(word.text)
    features = [_log_odds(word.confidence or 0.0), math.log(len(word.text)), math.log(pace_s)]
    return features if token_log_prob is None else [*features, _log_odds(math.exp(min(0.0, token_log_prob)))]


def _log_odds(probability: float) -> float:
    kept = min(max(probability, LEAST_PROBABILITY), 1.0 - LEAST_PROBABILITY)
    return math.log(kept / (1.0 - kept))


def calibrated(
    words: Sequence[Word], maps: ConfidenceMaps | None, token_log_probs: Sequence[float] | None = None
) -> tuple[Word, ...]:
    """Aligned words with the confidence that the maps give them; without maps as they are.

    `token_log_probs` are of the least likely token of each word, in nats.
    """
    if maps is None:
        return tuple(words)
    known: Sequence[float | None] = [None] * len(words)
    if token_log_probs is not None and len(token_log_probs) == len(words):
        known = token_log_probs
    return tuple(replace(word, confidence=maps.confidence(word, own)) for word, own in zip(words, known, strict=True))


@dataclass(frozen=True)
class CalibratedTimes:
    """`WordTimes` whose confidences are calibrated when somebody asks."""

    timing: WordTimes
    maps: ConfidenceMaps
    token_log_probs: Sequence[float] | None = None

    def __call__(self) -> tuple[Word, ...]:
        return calibrated(self.timing(), self.maps, self.token_log_probs)
