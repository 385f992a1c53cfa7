"""Clips for overlapped speech detection: what is said by two is known from each alone."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from redline.errors import DataError
from redline.types import SAMPLE_RATE
from redline_recipes.tiny.overlap import CLIP_S, OverlapClips, read_voices, speech_frames, train


def voice(hertz: float) -> NDArray[np.int16]:
    """Bursts of a tone with pauses."""
    time = np.arange(8 * SAMPLE_RATE) / SAMPLE_RATE
    tone = np.sin(2 * np.pi * hertz * time) * (np.sin(np.pi * time) ** 2 > 0.2)
    return (8000 * tone).astype(np.int16)


@pytest.fixture(scope="module")
def clips() -> OverlapClips:
    return OverlapClips({"a": [voice(300.0)], "b": [voice(900.0)]}, [], 24)


def test_the_number_decides_all_of_a_clip(clips: OverlapClips) -> None:
    for number in (0, 7):
        for one, other in zip(clips[number], clips[number], strict=True):
            torch.testing.assert_close(one, other, atol=0, rtol=0)
    features, overlapped = clips[0]
    assert len(features) == len(overlapped) == round(CLIP_S * 50) and features.isfinite().all()
    shares = [clips[number][1].float().mean() for number in range(12)]
    assert min(shares) == 0.0 < max(shares) < 1.0, "some clips have two at once, and none has them all the time"


def test_a_voice_is_heard_where_it_speaks() -> None:
    samples = np.zeros(2 * SAMPLE_RATE, np.float32)
    assert not speech_frames(samples).any()
    samples[SAMPLE_RATE // 2 : SAMPLE_RATE] = voice(300.0)[SAMPLE_RATE // 4 : 3 * SAMPLE_RATE // 4] / np.float32(32768)
    heard = speech_frames(samples)
    assert heard[30:45].all() and not heard[:20].any() and not heard[60:].any()


def test_training_learns_and_one_voice_is_refused(clips: OverlapClips) -> None:
    losses = [loss for _, loss, _ in train(clips, batch=4, workers=0, rate=2e-3)]
    assert len(losses) == 6 and losses[-1] < losses[0]
    with pytest.raises(DataError, match="two are needed"):
        read_voices([])
