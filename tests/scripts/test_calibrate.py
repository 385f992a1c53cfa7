"""`scripts/calibrate.py` finds the map that words were drawn from."""

from __future__ import annotations

import math
import random

import pytest

from redline.types import Word
from tests.scripts.loading import script

WORDS = 4_000


def test_words_are_as_often_right_as_the_map_says() -> None:
    """Raw confidences that are far too high, tokens that know better: the fit finds both."""
    calibrate, draw = script("calibrate"), random.Random(7)
    words = []
    for number in range(WORDS):
        raw, token = draw.uniform(0.6, 0.99), draw.uniform(0.05, 0.95)
        right = draw.random() < 1 / (1 + math.exp(-(0.5 * math.log(raw / (1 - raw)) + math.log(token / (1 - token)))))
        word = Word(0.0, draw.uniform(0.1, 0.9), "x" * draw.randint(1, 9), raw)
        words.append(calibrate.Judged("books" if number % 2 else "calls", number % 5, word, math.log(token), right))
    maps = calibrate.maps_of(words)
    letters, length, pace, tokens = maps.decided.weights
    assert (letters, tokens) == pytest.approx((0.5, 1.0), abs=0.2) and abs(length) < 0.2 and abs(pace) < 0.2
    _, everything, *sources = calibrate.table(words)
    (before, _), _, (after, auc) = ((part.split()) for part in everything.split("%  ", 1)[1].split("   "))
    assert float(before.rstrip("%")) > 15 > 4 > float(after.rstrip("%")) and float(auc) > 0.75
    assert [line.split()[0] for line in sources] == ["books", "calls"]


def test_tokens_that_nobody_knows_are_left_out() -> None:
    calibrate = script("calibrate")
    words = [
        calibrate.Judged("a", at % 5, Word(0.0, 0.3, "so", 0.5 + at % 2 / 3), None, at % 3 > 0) for at in range(600)
    ]
    assert calibrate.maps_of(words).decided is None and len(calibrate.table(words)) == 3
