"""Segmentation: spans of speech -> windows."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from redline.errors import ConfigError
from redline.longform.strength import MARGIN_SAMPLES, Strength
from redline.longform.vad import VAD_FRAME
from redline.longform.windows import WindowCutter, WindowOptions
from redline.types import SAMPLE_RATE, Span


def even(probabilities: NDArray[np.float32], first: int = 0) -> Strength:
    """Frames from number `first` on whose sound is as loud everywhere: probabilities alone decide."""
    samples = np.broadcast_to(np.float32(0.1), len(probabilities) * VAD_FRAME)
    return Strength(probabilities, samples, first * VAD_FRAME)


def cut(
    speech: list[Span],
    strength: NDArray[np.float32],
    total: int,
    options: WindowOptions = WindowOptions(),  # noqa: B008
    max_s: float = 30.0,
    step: int | None = None,
) -> list[Span]:
    """The windows of all speech, which is given at once or, with `step`, so many samples at a time."""
    cutter, windows, base, needed = WindowCutter(options, max_s), list[Span](), 0, 0
    for end in range(step, total, step) if step else ():
        known = [Span(span.start, min(span.end, end)) for span in speech if needed <= span.end and span.start < end]
        settled = end - end % VAD_FRAME
        windows += cutter.push(
            known, settled, even(strength[base // VAD_FRAME : -(-end // VAD_FRAME)], base // VAD_FRAME)
        )
        needed = cutter.needed(settled)
        base = max(0, needed - MARGIN_SAMPLES)
    values = even(strength[base // VAD_FRAME :], base // VAD_FRAME)
    return (
        windows
        + cutter.push([span for span in speech if span.end >= needed], total, values)
        + cutter.close(total, values)
    )


pauses = st.lists(st.tuples(st.integers(0, 300_000), st.integers(1, 1_500_000)), max_size=12)


@settings(deadline=None, max_examples=150)
@given(pauses, st.floats(1, 30), st.floats(0, 0.5), st.floats(0, 3), st.integers(0, 2**32 - 1))
def test_windows_hold_all_speech_and_nothing_twice(
    gaps: list[tuple[int, int]], max_s: float, pad_s: float, join_s: float, seed: int
) -> None:
    speech, at = [], 0
    for gap, length in gaps:
        speech.append(Span(at + gap, at + gap + length))
        at += gap + length
    total = at + 1000
    strength = np.random.default_rng(seed).random(-(-total // VAD_FRAME), dtype=np.float32)
    windows = cut(speech, strength, total, WindowOptions(pad_s, join_s), max_s)
    assert all(0 <= span.start < span.end <= total for span in windows)
    assert all(span.end - span.start <= round(max_s * SAMPLE_RATE) for span in windows)
    assert all(left.end <= right.start for left, right in pairwise(windows))
    for span in speech:
        inside = [window for window in windows if window.end > span.start and window.start < span.end]
        assert inside[0].start <= span.start and span.end <= inside[-1].end
        assert all(left.end == right.start for left, right in pairwise(inside))


@settings(deadline=None, max_examples=60)
@given(pauses, st.floats(1, 30), st.integers(20_000, 2_000_000), st.integers(0, 2**32 - 1))
def test_windows_that_come_as_the_speech_does_are_those_of_the_whole(
    gaps: list[tuple[int, int]], max_s: float, step: int, seed: int
) -> None:
    speech, at = [], 0
    for gap, length in gaps:
        speech.append(Span(at + gap, at + gap + length))
        at += gap + length
    total = at + 1000
    strength = np.random.default_rng(seed).random(-(-total // VAD_FRAME), dtype=np.float32)
    assert cut(speech, strength, total, max_s=max_s, step=step) == cut(speech, strength, total, max_s=max_s)


def test_long_speech_is_cut_in_its_pause() -> None:
    strength = np.ones(2000, dtype=np.float32)
    strength[900:912] = 0.2
    strength[1100:1102] = 0.0  # one weak frame inside a word is no pause
    left, right = cut([Span(0, 2000 * VAD_FRAME)], strength, 2000 * VAD_FRAME, max_s=40)
    assert left.end == right.start and 900 * VAD_FRAME <= left.end <= 912 * VAD_FRAME
    assert right.end == 2000 * VAD_FRAME


def test_speech_up_to_two_windows_long_is_cut_into_even_shares() -> None:
    for seconds, windows in ((30, 1), (31, 2), (50, 2), (60, 3)):
        frames = seconds * SAMPLE_RATE // VAD_FRAME
        spans = cut([Span(0, frames * VAD_FRAME)], np.ones(frames, dtype=np.float32), frames * VAD_FRAME)
        assert len(spans) == windows


def test_hours_without_a_pause_are_cut_with_two_windows_of_look_ahead() -> None:
    frames = 2 * 3600 * SAMPLE_RATE // VAD_FRAME
    strength = np.random.default_rng(0).random(frames, dtype=np.float32)
    windows = cut([Span(0, frames * VAD_FRAME)], strength, frames * VAD_FRAME, step=10 * SAMPLE_RATE)
    assert sum(span.end - span.start for span in windows) == frames * VAD_FRAME and len(windows) <= 3 * 2 * 120
    cutter = WindowCutter(WindowOptions(), 30.0)
    values = even(strength[: 61 * SAMPLE_RATE // VAD_FRAME])
    assert cutter.push([Span(0, 61 * SAMPLE_RATE)], 61 * SAMPLE_RATE, values) == windows[:1]


def test_short_pauses_join_and_long_ones_part() -> None:
    speech = [Span(16_000, 32_000), Span(40_000, 60_000), Span(100_000, 120_000)]
    strength = np.zeros(1000, dtype=np.float32)
    assert cut(speech, strength, 200_000, WindowOptions(0.2, 0.6)) == [Span(12_800, 63_200), Span(96_800, 123_200)]


def test_padding_meets_in_the_middle_of_a_pause() -> None:
    speech = [Span(16_000, 32_000), Span(42_000, 60_000)]
    strength = np.zeros(1000, dtype=np.float32)
    assert cut(speech, strength, 61_000, WindowOptions(0.4, 0.6)) == [Span(9_600, 37_000), Span(37_000, 61_000)]


def test_the_pause_that_ends_an_eager_window_is_shared_with_the_next() -> None:
    cutter, second = WindowCutter(WindowOptions(0.4, 0.32, eager=True), 30.0), Span(38_000, 60_000)
    strength = even(np.zeros(200, dtype=np.float32))
    assert cutter.push([Span(16_000, 32_000)], 37_000, strength) == []
    (window,) = cutter.push([], 37_376, strength)
    assert window.end - 32_000 == pytest.approx(0.35 * 0.32 * SAMPLE_RATE, abs=VAD_FRAME)
    cutter.push([second], 60_000, strength)
    assert cutter.open is not None and cutter.open.start == window.end, "all that is left is heard with the next"


def test_a_window_of_less_than_a_second_is_refused() -> None:
    with pytest.raises(ValueError, match="at least 1 second"):
        WindowCutter(WindowOptions(), 0.5)
    with pytest.raises(ConfigError, match="allowed are seconds from 0 on"):
        WindowOptions(pad_s=-1)
