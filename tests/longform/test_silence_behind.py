"""Silence that the recognizer hears behind a window, where nobody waits for a real one."""

from __future__ import annotations

import numpy as np
import pytest

from redline.errors import ConfigError
from redline.longform.session import Session, SessionOptions
from redline.testing import FakeRecognizer, tone
from redline.types import ClipLimits, Hypothesis, Task, Waveform, Word


@pytest.mark.parametrize("needs_previous", [False, True])
def test_silence_is_heard_behind_each_window_and_is_no_time(needs_previous: bool) -> None:
    limits, options = ClipLimits(12.0, needs_previous), SessionOptions(vad=None, silence_s=0.5)
    clips: list[Waveform] = []

    def heard(clip: Waveform) -> Hypothesis:
        clips.append(clip)
        return Hypothesis("heard", words=(Word(clip.duration - 0.6, clip.duration, "heard"),), tagged="heard")

    session, recognizer = Session(limits, Task(), options), FakeRecognizer(heard)
    session.feed(tone(70).samples)
    session.close()
    while requests := session.ready():
        for request in requests:
            session.put(request.id, recognizer.answer(request))
    result = session.finish()
    assert len(clips) == len(result.segments) > 5 and all(clip.duration <= limits.max_s for clip in clips)
    assert all(not clip.samples[-8000:].any() and clip.samples[-8100:-8000].any() for clip in clips)
    assert all(np.diff(np.flatnonzero(clip.samples)).max() < 100 for clip in clips), "none within a clip"
    assert result.segments[0].start == 0.0 and result.segments[-1].end == 70.0
    for segment in result.segments:
        assert segment.words[-1].end == pytest.approx(segment.end) == pytest.approx(segment.words[-1].start + 0.1)


@pytest.mark.parametrize("silence_s", [-0.1, 3.0, float("nan")])
def test_silence_that_cannot_be_is_refused(silence_s: float) -> None:
    with pytest.raises(ConfigError, match="silence_s"):
        SessionOptions(silence_s=silence_s)
