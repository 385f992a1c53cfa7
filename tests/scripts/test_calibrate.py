"""`scripts/calibrate.py` finds the map that words were drawn from."""

from __future__ import annotations

import math
import random
from pathlib import Path

import pytest

from redline.decoding.word_confidence import WordEvidence
from redline.types import Word
from tests.scripts.loading import script

WORDS = 4_000


def test_words_are_as_often_right_as_the_map_says(tmp_path: Path) -> None:
    """Raw confidences that are far too high, tokens that know better: the fit finds both."""
    calibrate, draw = script("calibrate"), random.Random(7)
    words = []
    for number in range(WORDS):
        raw, token, draft = draw.uniform(0.6, 0.99), draw.uniform(0.05, 0.95), draw.uniform(0.05, 0.95)
        score = sum(weight * math.log(p / (1 - p)) for weight, p in ((0.5, raw), (1.0, token), (0.7, draft)))
        right = draw.random() < 1 / (1 + math.exp(-score))
        word = Word(0.0, draw.uniform(0.1, 0.9), "x" * draw.randint(1, 9), raw)
        known = WordEvidence(math.log(token), math.log(draft))
        words.append(calibrate.Judged("books" if number % 2 else "calls", number % 5, word, known, right))
    maps = calibrate.maps_of(words)
    letters, length, pace, tokens, draft = maps.edited.weights
    assert (letters, tokens, draft) == pytest.approx((0.5, 1.0, 0.7), abs=0.2)
    assert abs(length) < 0.2 and abs(pace) < 0.2
    _, everything, *sources = calibrate.table(words, columns := calibrate.confidences(words))
    (before, _), *_, (after, auc) = ((part.split()) for part in everything.split("%  ", 1)[1].split("   "))
    assert float(before.rstrip("%")) > 15 > 4 > float(after.rstrip("%")) and float(auc) > 0.75
    assert [line.split()[0] for line in sources] == ["books", "calls"]
    calibrate.draw(tmp_path / "chart.png", words, columns, "both")
    assert (tmp_path / "chart.png").read_bytes().startswith(b"\x89PNG")


def test_tokens_that_nobody_knows_are_left_out() -> None:
    calibrate = script("calibrate")
    words = [
        calibrate.Judged("a", at % 5, Word(0.0, 0.3, "so", 0.5 + at % 2 / 3), WordEvidence(), at % 3 > 0)
        for at in range(600)
    ]
    maps = calibrate.maps_of(words)
    assert (
        maps.decided is maps.drafted is maps.edited is None
        and len(calibrate.table(words, calibrate.confidences(words))) == 3
    )
