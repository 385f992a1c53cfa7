"""Sound in front of a window that the recognizer hears too, where a pause parts it from the window before."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray

from redline.errors import ConfigError
from redline.longform.session import MAX_LEAD_S, Session, SessionOptions
from redline.longform.vad import VadOptions
from redline.longform.windows import WindowOptions
from redline.testing import FakeRecognizer
from redline.types import SAMPLE_RATE, ClipLimits, Hypothesis, Task, Waveform, Word

LEAD_S = 0.25


@pytest.fixture(scope="module")
def speech(jfk: Waveform) -> NDArray[np.float32]:
    return jfk.samples[np.argmax(jfk.samples != 0) :]  # digital silence in front is passed over


def session(speech: NDArray[np.float32], lead_s: float, answer: Callable[[Waveform], Hypothesis]) -> Session:
    """A recording that was heard window by window, as a live stream is."""
    vad, window = VadOptions(min_silence_s=0.28), WindowOptions(0.4, 0.28, 1.5, eager=True)
    heard = Session(ClipLimits(30.0), Task(), SessionOptions(vad, window, 3, 0.3, lead_s))
    for at in range(0, len(speech), 1600):
        heard.feed(speech[at : at + 1600])
    heard.close()
    for request in heard.ready():
        heard.put(request.id, FakeRecognizer(answer).answer(request))
    return heard


def test_the_lead_is_heard_and_is_no_time(speech: NDArray[np.float32]) -> None:
    clips: list[Waveform] = []

    def answer(clip: Waveform) -> Hypothesis:
        clips.append(clip)
        words = (Word(0.05, 0.1, "early"), Word(0.4, clip.duration, "late"))
        return Hypothesis("early late", words=words, timing=lambda: words)

    heard = session(speech, LEAD_S, answer)
    plain = session(speech, 0.0, lambda clip: Hypothesis("x"))
    assert heard.windows == plain.windows and heard.cut == plain.cut, "the same windows"
    assert heard.cut and len(heard.cut) < len(heard.windows) - 1, "of both kinds"
    for number, (clip, window, segment) in enumerate(zip(clips, heard.windows, heard.segments(), strict=True)):
        lead = 0 if number - 1 in heard.cut else min(window.start, round(LEAD_S * SAMPLE_RATE))
        sound = speech[window.start - lead : window.end]
        assert np.array_equal(clip.samples[: len(sound)], sound) and not clip.samples[len(sound) :].any()
        front_s = lead / SAMPLE_RATE
        early, late = segment.words
        assert early.start == pytest.approx(window.start_s + max(0.0, 0.05 - front_s), abs=2e-3)
        assert late.start == pytest.approx(min(window.end_s, window.start_s + 0.4 - front_s), abs=2e-3)
        assert late.end == pytest.approx(window.end_s, abs=2e-3)
        assert segment.timing is not None and segment.timing()[1].start == pytest.approx(0.4 - front_s)


@pytest.mark.parametrize("lead_s", [-0.1, MAX_LEAD_S + 0.01, float("nan")])
def test_a_lead_that_cannot_be_is_refused(lead_s: float) -> None:
    with pytest.raises(ConfigError, match="lead_s"):
        SessionOptions(lead_s=lead_s)
