"""A session that goes on: whatever was kept, in whatever state, the transcript is that of an undisturbed one."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from redline.errors import RecognitionError
from redline.longform.resumed import ResumedSession
from redline.longform.session import Session, SessionOptions
from redline.testing import FakeRecognizer, tone
from redline.transcriber import Transcriber
from redline.types import SAMPLE_RATE, ClipLimits, Hypothesis, Request, Span, Task, Transcript, Waveform
from tests.longform.conftest import Samples


class Kept:
    """Answers in a dictionary."""

    def __init__(self, answers: dict[int, tuple[Span, Hypothesis]] | None = None) -> None:
        self.answers = dict(answers or {})

    def known(self, id: int, window: Span) -> Hypothesis | None:
        span, answer = self.answers.get(id, (None, None))
        return answer if span == window else None

    def keep(self, id: int, window: Span, answer: Hypothesis) -> None:
        assert id not in self.answers or self.answers[id][0] != window, "what is known is not recognized again"
        self.answers[id] = window, answer


def run(session: Session, samples: Samples, answer: Callable[[Request], Hypothesis], draw: random.Random) -> Transcript:
    for at in range(0, len(samples), 7 * SAMPLE_RATE):
        session.feed(samples[at : at + 7 * SAMPLE_RATE])
        if draw.random() < 0.5:
            answer_some(session, answer)
    session.close()
    answer_some(session, answer)
    return session.finish()


def answer_some(session: Session, answer: Callable[[Request], Hypothesis]) -> None:
    while requests := session.ready():
        for request in requests:
            session.put(request.id, answer(request))


@settings(deadline=None, max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.floats(0.05, 40.0), min_size=1, max_size=5), st.integers(0, 2**32), st.booleans())
def test_the_transcript_is_that_of_an_undisturbed_session(
    loud_is_speech: None,
    talk: Callable[..., Samples],
    listener: FakeRecognizer,
    seconds: list[float],
    seed: int,
    needs_previous: bool,
) -> None:
    samples, limits, draw = talk(*seconds), ClipLimits(12.0, needs_previous), random.Random(seed)
    asked = list[int]()

    def answer(request: Request) -> Hypothesis:
        asked.append(request.id)
        outcome = listener.answer(request)
        assert isinstance(outcome, Hypothesis)
        text = f"{outcome.text} after {request.task.prefix}"
        return Hypothesis(text, tagged=f"[{request.id}]")

    calm = run(Session(limits, Task(), model="fake"), samples, answer, draw)
    store, total = Kept(), len(asked)
    resumed = ResumedSession(limits, Task(), model="fake", answers=store)
    assert run(resumed, samples, answer, draw) == calm and len(store.answers) == total
    some = {id: kept for id, kept in store.answers.items() if draw.random() < 0.5}
    if some:
        wrong = draw.choice(list(some))
        some[wrong] = Span(0, 1), Hypothesis("of another window")
        del store.answers[wrong]
    asked.clear()
    again = ResumedSession(limits, Task(), model="fake", answers=Kept(some))
    assert run(again, samples, answer, draw) == calm
    assert len(asked) == total - max(0, len(some) - 1), "what was kept was not asked"


def test_failed_windows_are_not_kept_and_tried_again() -> None:
    fails = [True]

    def respond(clip: Waveform) -> str:
        if fails and clip.duration < 20:
            raise RecognitionError("no")
        return f"{clip.duration}"

    store, wave = Kept(), tone(100.0)
    model = Transcriber(FakeRecognizer(respond), SessionOptions(vad=None))
    first, *_ = model.transcribe_each([wave], answers=lambda source: store)
    assert isinstance(first, Transcript) and any(notice.code == "failed" for notice in first.warnings)
    before = len(store.answers)
    fails.clear()
    second, *_ = model.transcribe_each([wave], answers=lambda source: store)
    assert isinstance(second, Transcript) and second == model.transcribe(wave) and len(store.answers) > before
    model.recognizer.batches.clear()  # type: ignore[attr-defined]
    third, *_ = model.transcribe_each([wave], answers=lambda source: store)
    assert third == second and model.recognizer.batches == []  # type: ignore[attr-defined]


@pytest.mark.parametrize("count", [1, 3])
def test_segments_come_in_order_before_their_transcripts(count: int) -> None:
    model, seen = Transcriber(FakeRecognizer(), SessionOptions(vad=None)), list[object]()
    for result in model.transcribe_each([tone(100.0)] * count, on_segment=seen.append):
        seen.append(result)
    results = [each for each in seen if isinstance(each, Transcript)]
    assert len(results) == count
    expected = [each for result in results for each in (*result.segments, result)]
    assert seen == expected
