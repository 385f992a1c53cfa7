"""Seams are measured without networks: a recognizer that loses a word at every cut is found out."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest

from redline.longform.session import SessionOptions
from redline.testing import FakeRecognizer
from redline.transcriber import Transcriber
from redline.types import SAMPLE_RATE, Waveform
from tests.scripts.loading import script

seams = script("seams")
WORDS = [f"w{chr(97 + number // 26)}{chr(97 + number % 26)}" for number in range(400)]
SLOT = SAMPLE_RATE // 2
LEVEL = 1 / 1024


def respond(clip: Waveform) -> str:
    """The words of a clip: each is a second half of loud sound whose level is its number; the quiet between is none."""
    levels = np.round(clip.samples.astype(np.float64) / LEVEL).astype(int)
    borders = [0, *(np.flatnonzero(np.diff(levels)) + 1).tolist(), len(levels)]
    parts = [(levels[start], end - start) for start, end in pairwise(borders)]
    return " ".join(WORDS[level - 1] for level, length in parts if level > 0 and length > SLOT // 5)


@pytest.mark.parametrize("loses", [False, True])
def test_what_is_lost_at_seams_is_counted(loses: bool) -> None:
    loud = np.repeat((np.arange(len(WORDS)) + 1) * LEVEL, SLOT)
    loud[(np.arange(len(loud)) % SLOT) >= SLOT // 2] = 0.0
    wave = Waveform(loud.astype(np.float32), "levels")

    def heard(clip: Waveform) -> str:
        return respond(clip).partition(" ")[2] if loses and clip.duration > 1 else respond(clip)

    model = Transcriber(FakeRecognizer(heard, max_clip_s=30.0), SessionOptions(vad=None))
    silences = [np.zeros(round(s * SAMPLE_RATE), np.float32) for s in (0.0, 2.2, 4.6, 7.1, 9.3, 11.8)]
    result = seams.measure(model, wave, " ".join(WORDS), "de", silences)
    assert result["all_seams"] > 50 and result["seams"] > 20 and result["halfway"] > 20
    assert (result["lost_at_seams"] > result["seams"] / 2) is loses and result["lost_halfway"] == 0
    assert (result["wer_spread"] == max(result["wer"]) == 0) is not loses
    assert result["doubled_at_seams"] == result["added_at_seams"] == 0


def test_room_tone_is_as_loud_and_colored_as_the_quietest_sound() -> None:
    draw = np.random.default_rng(0)
    dark = np.convolve(draw.standard_normal(80_000), np.ones(8) / 8, mode="same")
    samples = np.concatenate((np.zeros(20_000), 0.001 * dark, 0.1 * draw.standard_normal(80_000))).astype(np.float32)
    tone = seams.room_tone(samples, 50_001)
    quiet = samples[20_000:100_000]
    assert len(tone) == 50_001
    assert np.square(tone).mean() == pytest.approx(np.square(quiet).mean(), rel=0.2)
    assert np.square(np.diff(tone)).mean() == pytest.approx(np.square(np.diff(quiet)).mean(), rel=0.3)
