"""Places to cut belong to the sound: frames of another phase, and silence in front, find the same sample."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from redline.engine.live import LiveOptions
from redline.longform.session import Session, SessionOptions
from redline.longform.strength import Strength
from redline.longform.vad import VAD_FRAME, frame_levels
from redline.longform.windows import WindowOptions
from redline.testing import FakeRecognizer
from redline.types import SAMPLE_RATE, ClipLimits, Span, Task
from tests.longform.conftest import Samples

Talk = Callable[..., Samples]
OPTIONS = (SessionOptions(), SessionOptions(window=WindowOptions(join_s=2.0)), LiveOptions().session_options())


def room(count: int, level: float = 1e-4) -> Samples:
    return np.random.default_rng(9).standard_normal(count, dtype=np.float32) * np.float32(level)


def strength_of(samples: Samples, phase: int) -> Strength:
    """Frames that begin `phase` samples before the sound, of which loud ones are speech."""
    samples = np.concatenate((np.zeros(phase, dtype=np.float32), samples))
    samples = samples[: len(samples) // VAD_FRAME * VAD_FRAME]
    return Strength((frame_levels(samples) > -40).astype(np.float32), samples, -phase)


def session_of(samples: Samples, recognizer: FakeRecognizer, options: SessionOptions) -> Session:
    session = Session(ClipLimits(12.0), Task(words=True), options, model="fake")
    for at in range(0, len(samples), 50_000):
        session.feed(samples[at : at + 50_000])
    session.close()
    for request in session.ready():
        session.put(request.id, recognizer.answer(request))
    return session


@pytest.mark.parametrize("phase", [1, 100, 255, 256, 400, 511])
def test_the_weakest_place_is_the_same_in_frames_of_any_phase(talk: Talk, phase: int) -> None:
    samples = talk(3.1, 0.2, 2.3, 0.45, 2.7, 0.3, 4.0)
    samples += room(len(samples))
    place = strength_of(samples, 0).weakest(SAMPLE_RATE, 11 * SAMPLE_RATE)
    assert strength_of(samples, phase).weakest(SAMPLE_RATE, 11 * SAMPLE_RATE) == place
    assert 5.65 < place / SAMPLE_RATE < 6.0, "the longest pause, well inside"


def test_what_is_not_known_yet_is_no_silence(talk: Talk) -> None:
    samples = talk(3.0, 0.2, 2.8)
    assert 3.0 < strength_of(samples, 0).weakest(SAMPLE_RATE, 6 * SAMPLE_RATE) / SAMPLE_RATE < 3.2


def test_digital_silence_is_cut_in_its_middle(talk: Talk) -> None:
    samples = talk(3.0, 1.0, 3.0)
    assert strength_of(samples, 77).weakest(SAMPLE_RATE, 6 * SAMPLE_RATE) == pytest.approx(3.5 * SAMPLE_RATE, abs=40)


@settings(deadline=None, max_examples=30)
@given(st.lists(st.floats(1e-5, 0.3), min_size=1, max_size=20), st.integers(0, 30_000), st.integers(0, 30_000))
def test_a_valley_is_near_and_as_quiet_or_quieter(levels: list[float], place: int, size: int) -> None:
    draw = np.random.default_rng(0)
    samples = np.repeat(np.float32(levels), 2000) * draw.standard_normal(2000 * len(levels), dtype=np.float32)
    strength = Strength(np.zeros(1 + len(samples) // VAD_FRAME, np.float32), samples)
    found = strength.valley(place, max(0, place - size), place + size)
    assert abs(found - place) <= min(size, 0.2 * SAMPLE_RATE)
    assert power(samples, found) <= power(samples, place) * 1.001


def power(samples: NDArray[np.float32], place: int) -> float:
    """The geometric mean level of the 0.2 s around a place, each 32 ms."""
    strength = Strength(np.zeros(1, np.float32), samples)
    return float(np.exp(strength._levels(np.arange(place - 1600, place + 1601)).mean() / 100))


@pytest.mark.parametrize("options", OPTIONS, ids=["pauses", "long windows", "live"])
def test_digital_silence_in_front_moves_all_windows_and_changes_nothing(
    options: SessionOptions, loud_is_speech: None, talk: Talk, listener: FakeRecognizer
) -> None:
    samples = talk(0.0, 0.3, 20.0, 3.0, 15.0)
    plain = session_of(samples, listener, options)
    for count in (1, 7, 511, 512, 12_345, 700_000):
        session = session_of(np.concatenate((np.zeros(count, np.float32), samples)), listener, options)
        assert session.windows == [Span(each.start + count, each.end + count) for each in plain.windows]
        assert session.finish().text == plain.finish().text and session.finish().warnings == plain.finish().warnings


def test_room_tone_in_front_moves_no_cut(loud_is_speech: None, talk: Talk, listener: FakeRecognizer) -> None:
    lengths = np.random.default_rng(1).uniform(0.5, 4.0, 60)
    samples = talk(*[each if number % 2 else each / 8 + 0.1 for number, each in enumerate(lengths[::-1])][::-1])
    samples += room(len(samples))
    options = SessionOptions(window=WindowOptions(join_s=4.0))
    plain = session_of(samples, listener, options).windows
    for count in (1, 300, 20_000):
        front = np.concatenate((room(48_000, 1e-4)[-count:], samples))
        ends = [window.end - count for window in session_of(front, listener, options).windows]
        assert ends == [window.end for window in plain] and len(ends) > 6
