"""The babble of `scripts/no_speech.py`, and what it counts."""

from __future__ import annotations

import numpy as np
import pytest

from redline.testing import FakeRecognizer
from redline.transcriber import Transcriber
from redline.types import SAMPLE_RATE, Hypothesis, Word
from tests.scripts.loading import script

no_speech = script("no_speech")


def test_each_voice_of_the_babble_goes_on_without_a_pause() -> None:
    clips = [np.full(1000, level, dtype=np.float32) for level in (0.1, 0.2, 0.4)]
    one = no_speech.babble(clips, 1, 5500)
    assert one == pytest.approx(np.full(5500, 0.05)), "every clip has the same power"
    many = no_speech.babble(clips, 4, 5500)
    assert many == pytest.approx(np.full(5500, 0.1)), "four that say the same are twice as loud as one"
    ramps = [np.linspace(0.1, level, 1000, dtype=np.float32) for level in (0.2, 0.5, 0.9)]
    assert not np.array_equal(no_speech.babble(ramps, 2, 5500), no_speech.babble(ramps, 2, 5500, seed=1))


def test_words_are_counted_and_those_that_somebody_would_believe(capsys: pytest.CaptureFixture[str]) -> None:
    words = (Word(0.0, 0.4, "one", 0.9), Word(0.4, 0.8, "two", 0.2))
    model = Transcriber(FakeRecognizer(lambda clip: Hypothesis("one two", words=words)))
    tone = np.sin(np.arange(12 * SAMPLE_RATE) / 9).astype(np.float32)
    model.options = type(model.options)(vad=None)
    row = no_speech.heard(model, "tone", tone)
    assert (row["words"], row["sure"], row["words_a_minute"]) == (2, 1, 10.0)
    assert row["mean_confidence"] == pytest.approx(0.55)
    assert "one two" in capsys.readouterr().out
    model = Transcriber(FakeRecognizer(lambda clip: ""))
    silent = no_speech.heard(model, "silence", np.zeros(SAMPLE_RATE, dtype=np.float32))
    assert silent["words"] == 0 and silent["warnings"] == {"no-speech": 1}
