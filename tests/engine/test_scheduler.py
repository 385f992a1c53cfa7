"""Batching: bounded, fair, deterministic, and without influence on any text."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from redline.audio import load
from redline.engine.scheduler import FILES, LIVE, Account, BatchOptions, Scheduler, batches_by_length
from redline.errors import RecognitionError, RedlineError
from redline.load import load_model
from redline.longform.session import Session, SessionOptions
from redline.testing import FakeRecognizer, tone
from redline.transcriber import Transcriber
from redline.types import ClipLimits, Hypothesis, Request, Task, Transcript, Waveform

JFK = Path(__file__).parents[1] / "data" / "jfk.flac"
ALL = SessionOptions(vad=None)
LIMITS = ClipLimits(5.0)


def session(seconds: float, hertz: float = 440.0, limits: ClipLimits = LIMITS) -> Session:
    """A whole recording that waits for its answers."""
    recording = Session(limits, Task(), ALL)
    recording.feed(tone(seconds, hertz).samples)
    recording.close()
    return recording


def respond(clip: Waveform) -> str:
    if len(clip.samples) % 7 == 0:
        raise RecognitionError("no")
    return f"{len(clip.samples)} {np.abs(clip.samples).sum(dtype=np.float64):.3f}"


def alone(seconds: float, hertz: float, limits: ClipLimits = LIMITS) -> Transcript | RedlineError:
    recording = session(seconds, hertz, limits)
    while requests := recording.ready():
        for request in requests:
            (answer,) = FakeRecognizer(respond).recognize([request])
            recording.put(request.id, answer)
    return result(recording)


def result(recording: Session) -> Transcript | RedlineError:
    try:
        return recording.finish()
    except RedlineError as error:
        return RecognitionError(str(error))


@given(st.lists(st.integers(1, 1000), max_size=40), st.integers(1, 5000))
def test_batches_are_bounded_and_complete(lengths: list[int], most: int) -> None:
    groups = batches_by_length(lengths, most)
    assert sorted(index for group in groups for index in group) == list(range(len(lengths)))
    assert all(len(group) == 1 or len(group) * max(lengths[index] for index in group) <= most for group in groups)


recordings = st.lists(
    st.tuples(st.floats(0.02, 30.0), st.sampled_from([LIMITS, ClipLimits(10.0, needs_previous=True)]), st.booleans()),
    min_size=1,
    max_size=6,
)


@settings(deadline=None, max_examples=60)
@given(recordings, st.floats(0.1, 60.0))
def test_no_batch_changes_a_transcript(wanted: list[tuple[float, ClipLimits, bool]], batch_s: float) -> None:
    recognizer = FakeRecognizer(respond)
    scheduler = Scheduler(recognizer, BatchOptions(batch_s))
    sessions = [session(seconds, 300.0 + number, limits) for number, (seconds, limits, _) in enumerate(wanted)]
    for recording, (_, _, live) in zip(sessions, wanted, strict=True):
        scheduler.submit(recording, LIVE if live else FILES)
    scheduler.run()
    assert all(recording.done for recording in sessions) and not scheduler.step()
    assert all(len(batch) == 1 or len(batch) * max(batch) <= batch_s + 0.01 for batch in recognizer.batches)
    for number, (recording, (seconds, limits, _)) in enumerate(zip(sessions, wanted, strict=True)):
        outcome, other = result(recording), alone(seconds, 300.0 + number, limits)
        assert str(outcome) == str(other) and (isinstance(outcome, RedlineError) or outcome == other)


def test_live_sessions_go_before_files() -> None:
    recognizer = FakeRecognizer()
    scheduler = Scheduler(recognizer, BatchOptions(10.0))
    file, live = session(40.0), session(4.0)
    scheduler.submit(file, FILES)
    scheduler.submit(live, LIVE)
    assert scheduler.step() and live.done and recognizer.batches == [[4.0]]


def test_a_long_recording_starves_no_short_one() -> None:
    recognizer = FakeRecognizer()
    scheduler = Scheduler(recognizer, BatchOptions(5.0))
    long = session(200.0)
    scheduler.submit(long)
    for _ in range(10):
        scheduler.step()
    short = session(1.0)
    scheduler.submit(short)
    scheduler.step()
    scheduler.step()
    assert short.done and not long.done


def test_sessions_get_equal_shares() -> None:
    scheduler = Scheduler(FakeRecognizer(), BatchOptions(5.0))
    sessions = [session(100.0, 300.0 + number) for number in range(3)]
    for recording in sessions:
        scheduler.submit(recording)
    for _ in range(21):
        scheduler.step()
    held = [recording.held_s for recording in sessions]
    longest_s = max(window.end_s - window.start_s for recording in sessions for window in recording.windows)
    assert max(held) - min(held) <= 2 * longest_s < 100.0 - max(held), "no more than two windows apart"


def test_whoever_was_idle_has_no_claim_to_the_past() -> None:
    scheduler = Scheduler(FakeRecognizer(), BatchOptions(5.0))
    late, busy = Session(LIMITS, Task(), ALL), session(200.0)
    scheduler.submit(late)
    scheduler.submit(busy)
    for _ in range(20):
        scheduler.step()
    before = busy.held_s
    late.feed(tone(60.0).samples)
    for _ in range(8):
        scheduler.step()
    assert before - busy.held_s > 10.0, "both go on, in turn"


def test_sessions_of_one_account_are_served_in_order_and_together_as_one() -> None:
    scheduler, account = Scheduler(FakeRecognizer(), BatchOptions(5.0)), Account()
    first, second, other = session(60.0), session(60.0), session(60.0)
    scheduler.submit(first, account=account)
    scheduler.submit(second, account=account)
    scheduler.submit(other)
    for _ in range(16):
        scheduler.step()
    assert second.held_s == 60.0 and abs(first.held_s - other.held_s) <= 5.0


def test_recordings_share_batches_by_length() -> None:
    recognizer = FakeRecognizer()
    scheduler = Scheduler(recognizer, BatchOptions(8.0))
    for seconds in (4.0, 1.0, 3.9, 1.1):
        scheduler.submit(session(seconds))
    scheduler.run()
    assert recognizer.batches == [[4.0, 3.9], [1.0, 1.1]]


def test_a_session_that_is_looked_at_while_it_is_closed_is_not_forgotten() -> None:
    """Another thread closes it, which takes a while, as speech is looked for in the rest of the sound."""
    scheduler = Scheduler(FakeRecognizer())

    class Closing(Session):
        def _push(self, samples: NDArray[np.float32], *, last: bool = False) -> None:
            assert not scheduler.step() and not self.done
            super()._push(samples, last=last)
            assert scheduler.step(), "its last window is asked for, whether it is closed by now or not"

    recording = Closing(LIMITS, Task(), ALL)
    scheduler.submit(recording)
    recording.feed(tone(3).samples)
    recording.close()
    assert recording.done and recording.finish().text == "3.00 seconds"


def test_a_session_that_is_withdrawn_is_not_recognized() -> None:
    recognizer = FakeRecognizer()
    scheduler, recording = Scheduler(recognizer), session(4.0)
    scheduler.submit(recording)
    scheduler.withdraw(recording)
    assert not scheduler.step() and recognizer.batches == []


def test_a_bad_request_harms_only_itself_and_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    def picky(clip: Waveform) -> str:
        if clip.duration < 2:
            raise RecognitionError("too hard")
        return "fine"

    scheduler, good, bad = Scheduler(FakeRecognizer(picky)), session(4.0), session(1.0)
    scheduler.submit(good)
    scheduler.submit(bad)
    with caplog.at_level("DEBUG", logger="redline"):
        scheduler.run()
    assert good.finish().text == "fine" and "in picky" in caplog.text
    with pytest.raises(RecognitionError, match="too hard"):
        bad.finish()


def test_a_recognizer_that_loses_requests_is_found_out() -> None:
    class Lossy(FakeRecognizer):
        def recognize(self, requests: Sequence[Request]) -> list[Hypothesis | RedlineError]:
            return []

    scheduler = Scheduler(Lossy())
    scheduler.submit(session(4.0))
    with pytest.raises(RecognitionError, match="answered 1 requests with 0 hypotheses"):
        scheduler.run()


def test_a_fault_of_the_program_is_raised_and_nothing_is_lost() -> None:
    faults = [IndexError("list index out of range"), KeyboardInterrupt()]

    def fault(clip: Waveform) -> str:
        if faults:
            raise faults.pop()
        return "fine"

    scheduler, recording = Scheduler(FakeRecognizer(fault)), session(4.0)
    scheduler.submit(recording)
    for kind in (KeyboardInterrupt, IndexError):
        with pytest.raises(kind):
            scheduler.step()
    scheduler.run()
    assert recording.finish().text == "fine"


def test_a_batch_must_hold_some_audio() -> None:
    with pytest.raises(ValueError, match="workers is 0"):
        BatchOptions(workers=0)
    with pytest.raises(ValueError, match="batch_s is 0"):
        BatchOptions(0)


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_parts_of_a_batch_at_once_give_each_request_its_own_answer(threads: int) -> None:
    recognizer = FakeRecognizer(respond)
    scheduler = Scheduler(recognizer, BatchOptions(100.0, workers=3))
    recordings = [session(0.5 + 0.1 * number, 200.0 + number) for number in range(7)]
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        for recording in recordings:
            scheduler.submit(recording)
        scheduler.run()
        assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)
    expected = [str(alone(0.5 + 0.1 * number, 200.0 + number)) for number in range(7)]
    assert [str(result(recording)) for recording in recordings] == expected
    assert sum(map(len, recognizer.batches)) == 7 and len(recognizer.batches) == threads


def test_parts_of_a_batch_at_once_change_no_text_of_a_model() -> None:
    model = load_model("tiny")
    speech = load(JFK).samples
    clips = [speech[: 16000 * seconds] for seconds in (2, 11, 4, 7, 3)]
    texts = []
    for workers in (1, 2, 4):
        transcriber = Transcriber(model.recognizer, model.options, BatchOptions(workers=workers))
        texts.append(
            [
                transcript.to_dict()
                for transcript in transcriber.transcribe([Waveform(clip) for clip in clips], words=True)
            ]
        )
    assert texts[0] == texts[1] == texts[2]
