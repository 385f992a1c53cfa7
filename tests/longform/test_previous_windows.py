"""Windows that are asked behind the one before them, with its answer."""

from __future__ import annotations

import numpy as np
import pytest

from redline.errors import RecognitionError
from redline.longform.session import Session
from redline.testing import FakeRecognizer
from redline.types import ClipLimits, Hypothesis, Request, SpeakerEmbedding, Task, Turn, Word
from tests.longform.sessions import ALL, LIMITS, Talk, transcript


class Chained(FakeRecognizer):
    """Writes tags, and remembers what it was asked."""

    def __init__(self, *answers: Hypothesis) -> None:
        super().__init__(needs_previous=True, max_clip_s=8.0)
        self.answers, self.asked = iter(answers), list[Request]()

    def answer(self, request: Request) -> Hypothesis:
        self.asked.append(request)
        return next(self.answers)


def test_each_window_is_asked_behind_its_predecessor_with_its_answer(talk: Talk) -> None:
    answers = [Hypothesis(f"a{n}", words=(Word(5.0, 6.0, f"a{n}"),), tagged=f"[T] a{n}") for n in range(3)]
    recognizer = Chained(*answers)
    samples = talk(8.0)
    task = Task(prefix="so it begins", speakers=True)
    result = transcript(samples, recognizer, task, ALL, recognizer.limits(task))
    clips = [request.clip.samples for request in recognizer.asked]
    assert [request.task.prefix for request in recognizer.asked] == ["so it begins", "[T] a0", "[T] a1"]
    assert all(request.task.speakers and request.clip.duration <= 8.0 for request in recognizer.asked)
    own = [clips[0], clips[1][len(clips[0]) :]]
    own.append(clips[2][len(own[1]) :])
    assert np.array_equal(np.concatenate(own), samples)
    assert np.array_equal(clips[1][: len(own[0])], own[0]) and np.array_equal(clips[2][: len(own[1])], own[1])
    starts = [segment.words[0].start for segment in result.segments]
    expected = [5.0, 5.0, 5.0 + result.segments[1].start]
    assert starts == pytest.approx(expected, abs=0.0015), "a clip begins where its predecessor does"


def test_a_window_without_tags_or_with_an_error_is_no_context(talk: Talk) -> None:
    recognizer = Chained(Hypothesis("a"), Hypothesis("b", tagged="b"), Hypothesis("c"))
    transcript(talk(8.0), recognizer, Task(), ALL, recognizer.limits(Task()))
    assert [request.task.prefix for request in recognizer.asked] == [None, None, "b"]


def test_a_window_waits_for_the_answer_of_the_one_before_it(talk: Talk) -> None:
    session = Session(ClipLimits(8.0, needs_previous=True), Task(), ALL)
    session.feed(talk(10.0))
    session.close()
    (first,) = session.ready()
    assert session.ready() == []
    session.put(first.id, RecognitionError("no"))
    (second,) = session.ready()
    assert second.task.prefix is None and second.clip.duration <= 4.0


def test_a_prefix_begins_the_first_window_only(talk: Talk) -> None:
    session = Session(LIMITS, Task(prefix="and so"), ALL)
    session.feed(talk(40.0))
    session.close()
    first, *others = [request.task.prefix for request in session.ready()]
    assert first == "and so" and len(others) > 2 and set(others) == {None}


def test_speakers_are_linked_in_time_order_whatever_the_order_of_answers(talk: Talk) -> None:
    directions = [(1.0, 0.0), (0.0, 1.0), (1.0, 0.0)]

    def answer(id: int) -> Hypothesis:
        voice = SpeakerEmbedding("1", directions[id], 2.0)
        return Hypothesis("yes", turns=(Turn("1", 0.0, 1.0, "yes"),), speaker_embeddings=(voice,))

    for order in ([0, 1, 2], [2, 1, 0], [1, 2, 0]):
        session = Session(ClipLimits(4.0), Task(speakers=True), ALL)
        session.feed(talk(10.0))
        session.close()
        assert len(session.ready()) == 3
        for id in order:
            session.put(id, answer(id))
        assert [turn.speaker for turn in session.finish().turns] == ["1", "2", "1"]
