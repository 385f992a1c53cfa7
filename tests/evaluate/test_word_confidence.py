"""Scores of word confidences."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from redline.evaluate.metrics.word_confidence import (
    describe_word_confidence,
    expected_calibration_error,
    right_words,
    score_word_confidence,
    separation,
)
from redline.evaluate.result import Result
from redline.manifest import Utterance
from redline.types import Word


def result(reference: str, *words: tuple[str, float | None]) -> Result:
    timed = tuple(Word(at, at + 1.0, text, confidence) for at, (text, confidence) in enumerate(words))
    text = " ".join(word.text for word in timed)
    return Result(Utterance("1", Path("1.wav"), reference, 5.0), edited=text, words=timed)


def test_a_word_is_right_where_the_reference_has_it() -> None:
    answer = result(
        "the cat sat on mats", ("The", 1.0), ("cats", 0.5), ("sat,", 0.5), ("—", 0.5), ("uh", 0.1), ("on", 0.9)
    )
    assert right_words(answer) == [True, False, True, None, None, True]


def test_errors_and_areas_are_those_counted_by_hand() -> None:
    confidence, right = np.array([0.9, 0.92, 0.3, 0.31]), np.array([1.0, 0.0, 0.0, 1.0])
    assert expected_calibration_error(confidence, right) == pytest.approx((abs(0.91 - 0.5) + abs(0.305 - 0.5)) / 2)
    # Pairs of right and wrong: 0.9 < 0.92, 0.9 > 0.3, 0.31 < 0.92, 0.31 > 0.3.
    assert separation(confidence, right) == pytest.approx(0.5)
    assert separation(np.array([0.2, 0.2, 0.8]), np.array([0.0, 1.0, 1.0])) == pytest.approx(0.75), "ties count half"
    assert separation(np.array([1.0]), np.array([1.0])) is None
    perfect = np.linspace(0.0, 1.0, 1001)
    assert expected_calibration_error(perfect, (perfect > 0.5).astype(float)) == pytest.approx(0.25, abs=0.01)


def test_all_words_with_a_confidence_are_scored() -> None:
    answers = [result("a b", ("a", 0.9), ("c", 0.2)), result("d", ("d", None)), result("e")]
    score = score_word_confidence(answers)
    assert score is not None and (score["words"], score["right"], score["auc"]) == (2, 0.5, 1.0)
    assert score["ece"] == pytest.approx(0.15) and score["bins"] == [[0.2, 0.0, 1], [0.9, 1.0, 1]]
    assert describe_word_confidence(score) == (
        "calibration error 15.0 % (ECE), wrong words told with an AUC of 1.000; 2 words, 50.0 % right"
    )
    assert score_word_confidence(answers[1:]) is None
