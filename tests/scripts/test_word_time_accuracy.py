"""What `scripts/word_time_accuracy.py` takes for the edges of sound, and how it counts."""

from __future__ import annotations

import numpy as np

from tests.scripts.loading import script

RATE = 16_000


def test_sound_is_cut_where_it_is_loud() -> None:
    noise = np.random.default_rng(0).normal(0.0, 0.1, RATE).astype(np.float32)
    quiet = np.random.default_rng(1).normal(0.0, 0.0005, RATE // 2).astype(np.float32)
    cut = script("word_time_accuracy")._sounding(np.concatenate((quiet, noise, quiet)))
    assert len(cut) == RATE and np.array_equal(cut, noise)


def test_errors_are_counted_in_milliseconds_with_their_sign() -> None:
    line = script("word_time_accuracy").describe(np.array([0.01, -0.03, 0.08, 0.3]))
    assert line.split() == ["4", "105.0", "+90.0", "+45.0", "25.0", "50.0", "75.0", "75.0"]
