"""Requests that join a running decode: fair, in order of priority, without influence on any text, and none is lost."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from redline.engine.scheduler import FILES, LIVE, RUN_STEPS, Account, BatchOptions, Scheduler
from redline.errors import RecognitionError, RedlineError
from redline.longform.session import Session
from redline.testing import FakeRecognizer, tone
from redline.types import ClipLimits, Hypothesis, Request, Task, Waveform
from tests.engine.test_scheduler import ALL, LIMITS, alone, respond, result, session


@dataclass(eq=False)
class Text:
    """An answer that takes as many steps as its clip has tenths of a second."""

    recognizer: Any
    request: Request
    left: int

    @property
    def decoding(self) -> Text:
        return self

    def answer(self) -> Hypothesis | RedlineError:
        outcome: Hypothesis | RedlineError = self.recognizer.answer(self.request)
        return outcome


class FakeDecoder:
    """A decode with so many slots, and whoever waits for one; it remembers who was in each step."""

    def __init__(self, rows: int) -> None:
        self.rows = rows
        self.waiting: dict[Text, int] = {}
        self.inside: list[Text] = []
        self.steps: list[list[float]] = []

    def wants(self, priority: int) -> bool:
        return all(other < priority for other in self.waiting.values())

    def join(self, texts: Sequence[Text], priority: int = 0) -> None:
        self.waiting.update(dict.fromkeys(texts, priority))

    def leave(self, text: Text) -> None:
        self.waiting.pop(text, None)
        self.inside = [each for each in self.inside if each is not text]

    def run(self, steps: int) -> list[Text]:
        return next((ended for _ in range(steps) if (ended := self.step())), [])

    def step(self) -> list[Text]:
        for text in sorted(self.waiting, key=lambda text: -self.waiting[text]):
            if len(self.inside) < self.rows + self.waiting[text]:
                del self.waiting[text]
                self.inside.append(text)
        self.steps.append([text.request.clip.duration for text in self.inside])
        for text in self.inside:
            text.left -= 1
        ended = [text for text in self.inside if text.left <= 0]
        self.inside = [text for text in self.inside if text.left > 0]
        return ended


class Continuous(FakeRecognizer):
    """A recognizer of which every other answer is written step by step."""

    def __init__(
        self, respond: Callable[[Waveform], str | Hypothesis] = respond, rows: int = 3, drafted: bool = False
    ) -> None:
        super().__init__(respond)
        self.decoders, self.rows, self.drafted = self, rows, drafted
        self.taken: list[FakeDecoder] = []
        self.given: list[FakeDecoder] = []

    def take(self, workers: int) -> FakeDecoder:
        assert workers == 1
        self.taken.append(FakeDecoder(self.rows))
        return self.taken[-1]

    def give(self, decoder: FakeDecoder) -> None:
        assert not decoder.inside and not decoder.waiting
        self.given.append(decoder)

    def begin(self, requests: Sequence[Request]) -> list[Hypothesis | RedlineError | Text]:
        self.batches.append([request.clip.duration for request in requests])
        return [
            self.answer(request)
            if self.drafted and len(request.clip.samples) % 2
            else Text(self, request, round(10 * request.clip.duration))
            for request in requests
        ]


recordings = st.lists(
    st.tuples(st.floats(0.02, 20.0), st.sampled_from([LIMITS, ClipLimits(10.0, needs_previous=True)]), st.booleans()),
    min_size=1,
    max_size=6,
)


@settings(deadline=None, max_examples=30)
@given(recordings, st.floats(0.1, 60.0), st.integers(1, 5), st.booleans(), st.data())
def test_no_company_in_a_running_decode_changes_a_transcript(
    wanted: list[tuple[float, ClipLimits, bool]], batch_s: float, rows: int, drafted: bool, data: st.DataObject
) -> None:
    scheduler = Scheduler(Continuous(respond, rows, drafted), BatchOptions(batch_s))
    sessions = [session(seconds, 300.0 + number, limits) for number, (seconds, limits, _) in enumerate(wanted)]
    for recording, (_, _, live) in zip(sessions, wanted, strict=True):
        scheduler.submit(recording, LIVE if live else FILES)
        for _ in range(data.draw(st.integers(0, 3))):
            scheduler.step()
    scheduler.run()
    assert all(recording.done for recording in sessions) and not scheduler.step()
    for number, (recording, (seconds, limits, _)) in enumerate(zip(sessions, wanted, strict=True)):
        outcome, other = result(recording), alone(seconds, 300.0 + number, limits)
        assert str(outcome) == str(other) and (isinstance(outcome, RedlineError) or outcome == other)


def test_requests_join_while_others_are_written_and_slots_stay_full() -> None:
    recognizer = Continuous(rows=3)
    scheduler = Scheduler(recognizer, BatchOptions(4.0))
    long = session(4.9)
    scheduler.submit(long)
    scheduler.step()
    for seconds in (1.0, 1.2, 0.9, 1.1, 0.8):
        scheduler.submit(session(seconds))
    scheduler.run()
    (decoder,) = recognizer.taken
    assert long.done and all(len(step) == 3 for step in decoder.steps[RUN_STEPS : RUN_STEPS + 16])
    assert recognizer.given == [decoder], "given back once nobody is in it"


def test_live_speech_is_in_the_next_step_while_files_are_written() -> None:
    recognizer = Continuous(rows=2)
    scheduler = Scheduler(recognizer, BatchOptions(10.0))
    files, live = session(60.0), Session(LIMITS, Task(), ALL)
    scheduler.submit(files, FILES)
    scheduler.submit(live, LIVE)
    for _ in range(3):
        scheduler.step()
    live.feed(tone(1.3).samples)
    live.close()
    (decoder,) = recognizer.taken
    before = len(decoder.steps)
    scheduler.step()
    assert 1.3 in decoder.steps[before]


def test_accounts_share_a_running_decode_equally() -> None:
    scheduler, account = Scheduler(Continuous(), BatchOptions(5.0)), Account()
    first, second, other = session(60.0), session(60.0), session(60.0)
    scheduler.submit(first, account=account)
    scheduler.submit(second, account=account)
    scheduler.submit(other)
    while first.held_s > 25.0:
        scheduler.step()
    assert second.held_s == 60.0 and abs(first.held_s - other.held_s) <= 15.0


def test_a_step_gives_others_their_turn() -> None:
    recognizer = Continuous()
    scheduler = Scheduler(recognizer)
    scheduler.submit(session(4.9))
    scheduler.step()
    assert len(recognizer.taken[0].steps) == RUN_STEPS


def test_who_withdraws_leaves_the_decode() -> None:
    recognizer = Continuous()
    scheduler, gone, stays = Scheduler(recognizer), session(5.0), session(4.0)
    scheduler.submit(gone)
    scheduler.submit(stays)
    scheduler.step()
    scheduler.withdraw(gone)
    assert recognizer.taken[0].inside and all(text.request.clip.duration < 5 for text in recognizer.taken[0].inside)
    scheduler.run()
    assert stays.done and not gone.done


@pytest.mark.parametrize("where", ["begin", "step", "answer"])
def test_a_fault_of_the_program_is_raised_and_no_request_is_lost(where: str, monkeypatch: pytest.MonkeyPatch) -> None:
    faults: list[BaseException] = [IndexError("list index out of range"), KeyboardInterrupt()]
    owner: Any = {"begin": Continuous, "step": FakeDecoder, "answer": Text}[where]
    plain = getattr(owner, where)

    def faulty(*given: Any) -> Any:
        if faults:
            raise faults.pop()
        return plain(*given)

    monkeypatch.setattr(owner, where, faulty)
    scheduler, first, second = Scheduler(Continuous(lambda clip: "fine")), session(9.0), session(1.0)
    scheduler.submit(first)
    scheduler.submit(second)
    for kind in (KeyboardInterrupt, IndexError):
        with pytest.raises(kind):
            scheduler.run()
    scheduler.run()
    assert first.finish().text == "fine fine" and second.finish().text == "fine"


def test_a_decode_that_memory_does_not_hold_is_done_one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(self: FakeDecoder) -> list[Text]:
        raise MemoryError

    monkeypatch.setattr(FakeDecoder, "step", full)
    recognizer = Continuous()
    scheduler, sessions = Scheduler(recognizer), [session(1.0 + number) for number in range(3)]
    for recording in sessions:
        scheduler.submit(recording)
    scheduler.run()
    for number, recording in enumerate(sessions):
        assert str(result(recording)) == str(alone(1.0 + number, 440.0))
    assert [len(batch) for batch in recognizer.batches] == [3, 1, 1, 1]


def test_an_answer_that_fails_harms_only_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    def picky(clip: Waveform) -> str:
        if clip.duration < 2:
            raise RecognitionError("too hard")
        return "fine"

    scheduler, good, bad = Scheduler(Continuous(picky)), session(4.0), session(1.0)
    monkeypatch.setattr(Text, "answer", lambda self: Hypothesis(picky(self.request.clip)))
    scheduler.submit(good)
    scheduler.submit(bad)
    scheduler.run()
    assert good.finish().text == "fine"
    with pytest.raises(RecognitionError, match="too hard"):
        bad.finish()


def test_a_recognizer_that_loses_requests_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Continuous, "begin", lambda self, requests: [])
    scheduler = Scheduler(Continuous())
    scheduler.submit(session(4.0))
    with pytest.raises(RecognitionError, match="answered 1 requests with 0 hypotheses"):
        scheduler.run()
