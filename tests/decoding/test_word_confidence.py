"""Confidence of words as the probability that they are right."""

from __future__ import annotations

import math

import pytest

from redline.decoding.word_confidence import CalibratedTimes, ConfidenceMaps, LogisticMap, calibrated, word_features
from redline.types import Word

MAPS = ConfidenceMaps(LogisticMap(0.0, (1.0, 0.0, 0.0)), LogisticMap(0.0, (0.0, 0.0, 0.0, 1.0)))
WORDS = (Word(0.0, 0.5, "so", 0.9), Word(0.5, 0.5, "it", 0.2), Word(0.6, 0.9, "is", 0.0))


def test_without_maps_nothing_changes() -> None:
    assert calibrated(WORDS, None, [-0.1, -0.2, -0.3]) == WORDS


def test_the_posterior_of_the_tokens_counts_where_it_is_known() -> None:
    alone = calibrated(WORDS, MAPS)
    assert [word.confidence for word in alone] == [0.9, 0.2, 0.0], "log odds and back"
    decided = calibrated(WORDS, MAPS, [math.log(0.3), 0.7, -0.1])
    assert [word.confidence for word in decided] == [0.3, 0.999, 0.0], "scores above 0 are certainty, silence stays 0"
    assert calibrated(WORDS, MAPS, [-0.1]) == alone, "those of other words are not taken"
    assert calibrated(WORDS, ConfidenceMaps(MAPS.aligned), [-0.1, -0.1, -0.1]) == alone
    assert [(word.start, word.end, word.text) for word in decided] == [(w.start, w.end, w.text) for w in WORDS]


def test_any_word_has_features_that_are_numbers() -> None:
    for word in (Word(1.0, 1.0, "—", 1.0), Word(0.0, 30.0, "x" * 200, 1e-9), Word(0.0, 0.02, "a")):
        for token in (None, 0.0, -1e9):
            assert all(map(math.isfinite, word_features(word, token)))
            steep = ConfidenceMaps(LogisticMap(1e3, (1e3,) * 3), LogisticMap(-1e3, (-1e3,) * 4))
            assert 0.0 <= steep.confidence(word, token) <= 1.0


def test_later_is_as_at_once() -> None:
    assert CalibratedTimes(lambda: WORDS, MAPS, [-0.5, -0.1, -0.1])() == calibrated(WORDS, MAPS, [-0.5, -0.1, -0.1])


@pytest.mark.parametrize("confidence", [0.001, 0.3, 0.99])
def test_a_surer_word_never_gets_less(confidence: float) -> None:
    surer = Word(0.0, 0.5, "so", confidence + 0.005)
    assert (MAPS.confidence(surer, None)) >= MAPS.confidence(Word(0.0, 0.5, "so", confidence), None)
