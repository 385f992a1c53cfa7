"""A recording as a state machine: any pieces in, any order of answers, one transcript."""

from __future__ import annotations

import random

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from redline.errors import AudioError, RecognitionError, UnsupportedTaskError
from redline.longform.session import Session, SessionOptions
from redline.longform.vad import VAD_BLOCK
from redline.longform.windows import WindowOptions
from redline.testing import FakeRecognizer, silence, tone
from redline.types import (
    SAMPLE_RATE,
    ClipLimits,
    Hypothesis,
    Notice,
    Task,
    Waveform,
    Word,
)
from tests.longform.conftest import reachable_bytes
from tests.longform.sessions import ALL, LIMITS, Talk, answer_all, transcript


def codes(notices: object) -> list[str]:
    return [notice.code for notice in notices]  # type: ignore[attr-defined]


# ------------------------------------------------------------------------------------------------------- the law of it

lengths = st.lists(st.floats(0.05, 40.0), min_size=1, max_size=5)


@settings(deadline=None, max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(lengths, st.lists(st.integers(2000, 700_000), min_size=1, max_size=6), st.integers(0, 2**32), st.booleans())
def test_any_pieces_and_any_order_of_answers_give_the_same_transcript(
    loud_is_speech: None,
    talk: Talk,
    listener: FakeRecognizer,
    seconds: list[float],
    sizes: list[int],
    seed: int,
    needs_previous: bool,
) -> None:
    samples, limits = talk(*seconds), ClipLimits(12.0, needs_previous)
    whole = transcript(samples, listener, limits=limits)
    session, draw, at, segments = Session(limits, Task(), model="fake"), random.Random(seed), 0, []
    while at < len(samples):
        session.feed(samples[at : (at := at + draw.choice(sizes))])
        if draw.random() < 0.5:
            answer_all(session, listener, draw)
            segments += session.segments()
    session.close()
    answer_all(session, listener, draw)
    segments += session.segments()
    assert session.finish() == whole and tuple(segments) == whole.segments
    assert session.held_s == 0 and session.done


def test_segments_come_before_the_recording_has_ended(
    loud_is_speech: None, talk: Talk, listener: FakeRecognizer
) -> None:
    session, samples = Session(LIMITS, Task()), talk(*[8.0, 2.0] * 100)
    for at in range(0, len(samples), SAMPLE_RATE):
        session.feed(samples[at : at + SAMPLE_RATE])
        answer_all(session, listener)
        if session.segments():
            break
    assert at < len(samples) / 10


def test_what_is_not_needed_any_more_is_dropped(loud_is_speech: None, talk: Talk, listener: FakeRecognizer) -> None:
    session, minute, most = Session(LIMITS, Task()), talk(*[8.0, 2.0] * 6), 0
    for _ in range(60):
        session.feed(minute)
        answer_all(session, listener)
        arrays = [session._samples, *session._incoming, *session._clips.values()]
        most = max(most, sum(array.nbytes for array in arrays))
        assert session.held_s < 2 * VAD_BLOCK / SAMPLE_RATE
    session.close()
    answer_all(session, listener)
    assert most < 3 * VAD_BLOCK * 4 and len(session.segments()) == 6 * 60


def test_a_closed_session_holds_no_sound_but_its_clips(jfk: Waveform) -> None:
    session = Session(FakeRecognizer().limits(Task()), Task())
    session.feed(jfk.samples)
    session.close()
    assert reachable_bytes(session) < 1.1 * jfk.samples.nbytes
    answer_all(session, FakeRecognizer())
    assert session.done and reachable_bytes(session) < 0.1 * jfk.samples.nbytes


def test_less_than_20_ms_is_empty_with_a_warning() -> None:
    for samples in (0, 1, 319):
        result = transcript(np.ones(samples, dtype=np.float32), FakeRecognizer())
        assert result.text == "" and codes(result.warnings) == ["too-short"]


@pytest.mark.parametrize("samples", [320, 511, 512, 513, 4000, VAD_BLOCK - 1, VAD_BLOCK, VAD_BLOCK + 1])
@pytest.mark.parametrize("options", [SessionOptions(), ALL])
def test_no_length_breaks_it(samples: int, options: SessionOptions) -> None:
    result = transcript(tone(samples / SAMPLE_RATE).samples, FakeRecognizer(), options=options)
    assert result.duration == round(samples / SAMPLE_RATE, 3) and bool(result.text) is (options == ALL)


def test_samples_that_are_no_numbers_are_refused() -> None:
    session = Session(LIMITS, Task(), source="odd.wav")
    with pytest.raises(AudioError, match=r"odd\.wav: 1 samples that are NaN"):
        session.feed(np.float32([0.0, np.nan]))
    with pytest.raises(AudioError, match="samples are float64"):
        session.feed(np.zeros(5))  # type: ignore[arg-type]


def test_the_callers_array_may_be_used_again(loud_is_speech: None, talk: Talk, listener: FakeRecognizer) -> None:
    samples = talk(5.0, 3.0, 5.0)
    session, block = Session(LIMITS, Task(), model="fake"), np.empty(1000, np.float32)
    for at in range(0, len(samples), 1000):
        block[:] = samples[at : at + 1000]
        session.feed(block)
    session.close()
    answer_all(session, listener)
    assert session.finish() == transcript(samples, listener)


def test_what_nobody_asked_for_is_refused() -> None:
    session = Session(LIMITS, Task(), ALL)
    session.feed(tone(20.0).samples)
    session.close()
    first, *_ = session.ready()
    session.put(first.id, Hypothesis("a"))
    for id in (first.id, 99):
        with pytest.raises(ValueError, match="no answer to request"):
            session.put(id, Hypothesis("again"))
    with pytest.raises(ValueError, match="wait for answers"):
        session.finish()
    with pytest.raises(ValueError, match="takes no more samples"):
        session.feed(tone(1.0).samples)


# ---------------------------------------------------------------------------------------------------- speech or none


def test_speech_is_found_and_cut_at_pauses(jfk: Waveform) -> None:
    result = transcript(jfk.samples, FakeRecognizer())
    np.testing.assert_allclose([segment.start for segment in result.segments], [0.0, 2.9, 5.0], atol=0.2)
    assert result.warnings == () and result.duration == 11.0


@pytest.mark.parametrize("wave", [silence(3), tone(3)], ids=["silence", "tone"])
def test_silence_gives_empty_text_and_says_so(wave: Waveform) -> None:
    session = Session(LIMITS, Task())
    session.feed(wave.samples)
    session.close()
    assert session.ready() == [] and session.done
    result = session.finish()
    assert result.text == "" and codes(result.warnings) == ["no-speech"] and result.duration == 3.0


def test_without_detection_all_is_recognized() -> None:
    recognizer = FakeRecognizer(lambda clip: f"{clip.duration}")
    result = transcript(tone(70).samples, recognizer, options=ALL)
    assert sum(float(segment.text) for segment in result.segments) == pytest.approx(70)
    assert all(segment.end - segment.start <= 12 for segment in result.segments)


def test_warnings_of_reading_come_first(jfk: Waveform) -> None:
    session = Session(LIMITS, Task())
    session.feed(jfk.samples)
    torn = Notice("truncated", "half is missing")
    session.close((torn,))
    answer_all(session, FakeRecognizer(lambda clip: Hypothesis("x", warnings=(Notice("odd", "odd"),))))
    assert codes(session.notices()) == codes(session.finish().warnings) == ["truncated", "odd", "odd", "odd"]
    assert session.notices() == []


# ------------------------------------------------------------------------------------------------------------- failures


def picky(clip: Waveform) -> str:
    if clip.duration < 2:
        raise RecognitionError("too\nhard")
    return "heard"


def test_a_bad_window_harms_only_itself(jfk: Waveform) -> None:
    result = transcript(jfk.samples, FakeRecognizer(picky))
    assert result.text == "heard heard"
    (notice,) = result.warnings
    assert notice.code == "failed" and "RecognitionError: too hard" in notice.message
    assert notice.start == pytest.approx(2.9, abs=0.2) and notice.end == pytest.approx(4.8, abs=0.2)


def test_a_recording_of_which_everything_failed_is_an_error(jfk: Waveform) -> None:
    session = Session(LIMITS, Task(), source="short.wav")
    session.feed(jfk.samples[:SAMPLE_RATE])
    session.close()
    answer_all(session, FakeRecognizer(picky))
    with pytest.raises(RecognitionError, match=r"short\.wav: .* on all parts \(1\); .*too hard"):
        session.finish()
    assert session.interrupted() is None


def test_an_unsupported_task_is_not_taken_for_a_bad_window(jfk: Waveform) -> None:
    def refuse(clip: Waveform) -> str:
        if clip.duration < 2:
            raise UnsupportedTaskError("cannot")
        return "heard"

    with pytest.raises(UnsupportedTaskError):
        transcript(jfk.samples, FakeRecognizer(refuse))


@pytest.mark.parametrize("order", [[0, 1], [1, 3], [3], []])
def test_an_interruption_keeps_what_is_done_and_tells_what_is_missing(talk: Talk, order: list[int]) -> None:
    session = Session(ClipLimits(10.0), Task(), ALL)
    session.feed(talk(45.0))
    session.close()
    windows = session.windows
    assert len(session.ready()) == len(windows) == 6
    for id in order:
        session.put(id, Hypothesis(f"w{id}"))
    result = session.interrupted()
    if not order:
        assert result is None
        return
    assert result is not None and result.text == " ".join(f"w{id}" for id in order) and result.duration == 45.0
    missing = [(notice.start, notice.end) for notice in result.warnings if notice.code == "interrupted"]
    gaps = {(0, 1): [(2, 5)], (1, 3): [(0, 0), (2, 2), (4, 5)], (3,): [(0, 2), (4, 5)]}[tuple(order)]
    assert missing == [(windows[first].start_s, windows[last].end_s) for first, last in gaps]


def test_an_interruption_of_reading_is_told_too(talk: Talk) -> None:
    session = Session(ClipLimits(10.0), Task(), ALL)
    session.feed(talk(70.0))
    known = session.ready()
    for request in known:
        session.put(request.id, Hypothesis("w"))
    result = session.interrupted()
    assert result is not None and len(result.segments) == len(known) >= 4
    (notice,) = result.warnings
    assert (notice.code, notice.start, notice.end) == ("interrupted", session.windows[-1].end_s, 70.0)


def test_a_recording_that_is_done_is_not_interrupted() -> None:
    session = Session(LIMITS, Task())
    session.feed(silence(1.0).samples)
    session.close()
    result = session.interrupted()
    assert result is not None and codes(result.warnings) == ["no-speech"]


# ----------------------------------------------------------------------------------------------------------- stitching


def test_words_and_warnings_move_to_the_recording(talk: Talk) -> None:
    word = Word(0.1, 0.4, "part", 0.9)
    notices = (Notice("a", "whole"), Notice("b", "part", 0.25, 0.5))
    session = Session(ClipLimits(4.0), Task(language="en"), ALL, model="m")
    session.feed(talk(6.0))
    session.close()
    assert len(session.ready()) == 2
    session.put(1, Hypothesis(" second  part ", "draft", confidence=0.5, words=(word,), warnings=notices, tagged="t"))
    session.put(0, Hypothesis("first", language="en"))
    result = session.finish()
    middle, end = session.windows[1].start_s, session.windows[1].end_s
    assert result.text == "first second part" and (result.language, result.model) == ("en", "m")
    first, second = result.segments
    assert (first.id, first.start, first.end, first.language) == (0, 0.0, middle, "en")
    assert (second.id, second.draft, second.confidence, second.tagged) == (1, "draft", 0.5, "t")
    assert second.words == (Word(round(middle + 0.1, 3), round(middle + 0.4, 3), "part", 0.9),)
    assert result.warnings == (
        Notice("a", "whole", middle, end),
        Notice("b", "part", round(middle + 0.25, 3), round(middle + 0.5, 3)),
    )


def test_speech_without_text_is_told() -> None:
    result = transcript(tone(1.0).samples, FakeRecognizer(lambda clip: Hypothesis(" ", draft="uh")), options=ALL)
    assert result.text == "" and result.segments == ()
    (notice,) = result.warnings
    assert (notice.code, notice.start, notice.end) == ("empty-text", 0.0, 1.0) and "'uh'" in notice.message


def test_join_and_padding_are_options(jfk: Waveform) -> None:
    options = SessionOptions(window=WindowOptions(join_s=2.0))
    assert len(transcript(jfk.samples, FakeRecognizer(), options=options).segments) == 1
