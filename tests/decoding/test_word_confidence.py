"""Confidence of words as the probability that they are right."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from redline.decoding.word_confidence import (
    LEAST_PROBABILITY,
    CalibratedTimes,
    ConfidenceMaps,
    DraftTokens,
    LogisticMap,
    TextEvidence,
    WordEvidence,
    calibrated,
    word_features,
)
from redline.types import Word

LAST = LogisticMap(0.0, (0.0, 0.0, 0.0, 1.0))
MAPS = ConfidenceMaps(LogisticMap(0.0, (1.0, 0.0, 0.0)), LAST)
ALL_MAPS = replace(MAPS, drafted=LAST, edited=LogisticMap(0.0, (0.0, 0.0, 0.0, 0.0, 1.0)))
WORDS = (Word(0.0, 0.5, "so", 0.9), Word(0.5, 0.5, "it", 0.2), Word(0.6, 0.9, "is", 0.0))


def test_without_maps_nothing_changes() -> None:
    assert calibrated(WORDS, None, TextEvidence([-0.1, -0.2, -0.3])) == WORDS


def test_the_posterior_of_the_tokens_counts_where_it_is_known() -> None:
    alone = calibrated(WORDS, MAPS)
    assert [word.confidence for word in alone] == [0.9, 0.2, 0.0], "log odds and back"
    decided = calibrated(WORDS, MAPS, TextEvidence([math.log(0.3), 0.7, -0.1]))
    assert [word.confidence for word in decided] == [0.3, 0.999, 0.0], "scores above 0 are certainty, silence stays 0"
    assert calibrated(WORDS, MAPS, TextEvidence([-0.1])) == alone, "those of other words are not taken"
    assert calibrated(WORDS, ConfidenceMaps(MAPS.aligned), TextEvidence([-0.1, -0.1, -0.1])) == alone
    assert [(word.start, word.end, word.text) for word in decided] == [(w.start, w.end, w.text) for w in WORDS]


def test_any_word_has_features_that_are_numbers() -> None:
    for word in (Word(1.0, 1.0, "—", 1.0), Word(0.0, 30.0, "x" * 200, 1e-9), Word(0.0, 0.02, "a")):
        for token in (None, 0.0, -1e9):
            known = WordEvidence(token, token)
            assert all(map(math.isfinite, word_features(word, known)))
            steep = ConfidenceMaps(LogisticMap(1e3, (1e3,) * 3), edited=LogisticMap(-1e3, (-1e3,) * 5))
            assert 0.0 <= steep.confidence(word, known) <= 1.0


def test_the_map_of_all_that_is_known_decides() -> None:
    word, low, high = WORDS[0], math.log(0.2), math.log(0.8)
    known = (
        (WordEvidence(), 0.9),
        (WordEvidence(low), 0.2),
        (WordEvidence(None, high), 0.8),
        (WordEvidence(low, high), 0.8),
    )
    assert [ALL_MAPS.confidence(word, each) for each, _ in known] == [confidence for _, confidence in known]
    assert replace(ALL_MAPS, edited=None, drafted=None).confidence(word, WordEvidence(low, high)) == 0.2


def test_the_draft_is_heard_around_the_word() -> None:
    """Ten frames of 0.1 s; the first word has two tokens, of which the second is heard best behind the word."""
    ids, log_probs = np.zeros((10, 2), dtype=np.int64), np.full((10, 2), -9.0, dtype=np.float32)
    ids[2], log_probs[2] = (7, 8), (math.log(0.9), math.log(0.05))
    ids[4], log_probs[4] = (9, 8), (math.log(0.2), math.log(0.6))
    ids[8], log_probs[8] = (8, 7), (math.log(0.99), -math.inf)
    drafted = DraftTokens(ids, log_probs, 0.1, [[7, 8], [9], [11], []])
    word, least = Word(0.2, 0.3, "so", 0.9), pytest.approx(math.log(LEAST_PROBABILITY))
    assert drafted.least(0, word) == pytest.approx(math.log(0.6)), "in frames 0 to 4"
    assert drafted.least(1, replace(word, start=0.0, end=0.1)) == least, "too early for it"
    assert [drafted.least(2, word), drafted.least(3, word)] == [least, least]
    assert drafted.least(0, Word(5.0, 5.0, "so")) == least, "behind the last frame"
    words = (word,) * 4
    assert TextEvidence(None, drafted).of(words)[0].draft == pytest.approx(math.log(0.6))
    assert TextEvidence(None, drafted).of(words[:3]) == [WordEvidence()] * 3, "those of other words are not taken"


def test_later_is_as_at_once() -> None:
    known = TextEvidence([-0.5, -0.1, -0.1])
    assert CalibratedTimes(lambda: WORDS, MAPS, known)() == calibrated(WORDS, MAPS, known)


@pytest.mark.parametrize("confidence", [0.001, 0.3, 0.99])
def test_a_surer_word_never_gets_less(confidence: float) -> None:
    surer = Word(0.0, 0.5, "so", confidence + 0.005)
    assert (MAPS.confidence(surer, WordEvidence())) >= MAPS.confidence(Word(0.0, 0.5, "so", confidence), WordEvidence())
