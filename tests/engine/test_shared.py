"""One scheduler for many threads: batches are shared, nobody's fault is another's, and whoever leaves is forgotten."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from redline import Transcriber
from redline.engine import shared as shared_module
from redline.engine.scheduler import JOBS, BatchOptions
from redline.engine.shared import SharedLiveEngine, SharedScheduler, WithdrawnError
from redline.errors import RedlineError
from redline.longform.session import Session, SessionOptions
from redline.testing import FakeRecognizer, tone
from redline.types import Hypothesis, Request, Task, Waveform

NO_VAD = SessionOptions(vad=None)


class Slow(FakeRecognizer):
    """Holds its first batch until it is let go, so that others come meanwhile."""

    def __init__(self) -> None:
        super().__init__()
        self.begun, self.go_on = threading.Event(), threading.Event()

    def recognize(self, requests: Sequence[Request]) -> list[Hypothesis | RedlineError]:
        self.begun.set()
        assert self.go_on.wait(20)
        return super().recognize(requests)


class Poisoned(FakeRecognizer):
    """Raises what is no `RedlineError` for clips of three seconds, and so for every batch with one."""

    def recognize(self, requests: Sequence[Request]) -> list[Hypothesis | RedlineError]:
        if any(round(request.clip.duration) == 3 for request in requests):
            raise RuntimeError("a kernel failed")
        return super().recognize(requests)


@pytest.fixture
def schedulers() -> Iterator[list[SharedScheduler]]:
    made: list[SharedScheduler] = []
    yield made
    for each in made:
        each.close()


def transcribe(model: Transcriber, shared: SharedScheduler, wave: Waveform, priority: int = 0) -> str:
    with shared.client(priority) as client:
        return model.on(client).transcribe(wave).text


def test_callers_in_many_threads_share_batches_and_get_their_own_texts(schedulers: list[SharedScheduler]) -> None:
    recognizer = Slow()
    model = Transcriber(recognizer, NO_VAD)
    schedulers.append(shared := SharedScheduler(recognizer, BatchOptions(batch_s=60)))
    waves = [tone(seconds) for seconds in (1, 2, 3, 4, 5, 6)]
    with ThreadPoolExecutor(8) as pool:
        first = pool.submit(transcribe, model, shared, tone(7))
        assert recognizer.begun.wait(20)
        texts = [pool.submit(transcribe, model, shared, wave) for wave in waves]
        while len(shared._turn._waiters) < 7:  # type: ignore[attr-defined]
            time.sleep(0.005)
        recognizer.go_on.set()
        assert [each.result(20) for each in texts] == [f"{wave.duration:.2f} seconds" for wave in waves]
        assert first.result(20) == "7.00 seconds"
    assert len(recognizer.batches) == 2, "six recordings that waited are one batch"


def test_a_request_that_breaks_the_model_harms_only_itself(schedulers: list[SharedScheduler]) -> None:
    recognizer = Poisoned()
    model = Transcriber(recognizer, NO_VAD)
    schedulers.append(shared := SharedScheduler(recognizer))
    with ThreadPoolExecutor(5) as pool:
        texts = [pool.submit(transcribe, model, shared, tone(seconds)) for seconds in (1, 2, 3, 4, 5)]
    with pytest.raises(RedlineError, match="RuntimeError: a kernel failed"):
        texts[2].result()
    assert [each.result() for each in texts if each is not texts[2]] == [f"{n}.00 seconds" for n in (1, 2, 4, 5)]
    assert transcribe(model, shared, tone(6)) == "6.00 seconds", "the scheduler goes on"


def test_who_leaves_is_forgotten_and_others_are_served(schedulers: list[SharedScheduler]) -> None:
    recognizer = Slow()
    model = Transcriber(recognizer, NO_VAD)
    schedulers.append(shared := SharedScheduler(recognizer, BatchOptions(batch_s=5)))
    with ThreadPoolExecutor(3) as pool:
        pool.submit(transcribe, model, shared, tone(5))
        assert recognizer.begun.wait(20)
        with shared.client() as client:
            leaving = pool.submit(model.on(client).transcribe, tone(4))
            client.cancel()
            with pytest.raises(WithdrawnError):
                leaving.result(20)
        other = pool.submit(transcribe, model, shared, tone(3))
        recognizer.go_on.set()
        assert other.result(20) == "3.00 seconds"
    assert [4.0] not in recognizer.batches


def test_requests_of_people_go_before_jobs(schedulers: list[SharedScheduler]) -> None:
    recognizer = Slow()
    model = Transcriber(recognizer, NO_VAD)
    schedulers.append(shared := SharedScheduler(recognizer, BatchOptions(batch_s=5)))
    with ThreadPoolExecutor(3) as pool:
        pool.submit(transcribe, model, shared, tone(5))
        assert recognizer.begun.wait(20)
        pool.submit(transcribe, model, shared, tone(3), JOBS)
        pool.submit(transcribe, model, shared, tone(4))
        while len(shared._turn._waiters) < 3:  # type: ignore[attr-defined]
            time.sleep(0.005)
        recognizer.go_on.set()
    assert recognizer.batches == [[5.0], [4.0], [3.0]]


def test_a_closed_scheduler_lets_everybody_go() -> None:
    recognizer = Slow()
    model = Transcriber(recognizer, NO_VAD)
    shared = SharedScheduler(recognizer, BatchOptions(batch_s=5))
    with ThreadPoolExecutor(3) as pool:
        pool.submit(transcribe, model, shared, tone(5))
        assert recognizer.begun.wait(20)
        waiting = pool.submit(transcribe, model, shared, tone(4))
        threading.Timer(0.05, recognizer.go_on.set).start()
        shared.close()
        with pytest.raises(WithdrawnError):
            waiting.result(20)


def test_live_streams_share_the_scheduler_with_files(schedulers: list[SharedScheduler]) -> None:
    recognizer = FakeRecognizer()
    model = Transcriber(recognizer, NO_VAD)
    schedulers.append(shared := SharedScheduler(recognizer))
    told = threading.Event()
    with shared.client() as client:
        engine = SharedLiveEngine(shared)
        stream = model.on(client, engine).live(vad=False)
        stream.notify = told.set
        sound = (tone(2).samples * 32767).astype(np.int16).tobytes()
        for at in range(0, len(sound), 3200):
            stream.push(sound[at : at + 3200])
            engine.call()
        assert told.wait(20) and shared.streams == 1
        assert transcribe(model, shared, tone(1)) == "1.00 seconds"
        events = stream.poll() + stream.close()
        assert [event.text for event in events if event.kind == "committed"] == ["2.30 seconds"]
        assert stream.transcript().text == "2.30 seconds"
        transcribe(model, shared, tone(1))
    assert shared.streams == 0, "a stream that has ended makes no batch short any more"


def test_a_caller_holds_two_minutes_of_sound_at_most(schedulers: list[SharedScheduler]) -> None:
    recognizer = Slow()
    model = Transcriber(recognizer, NO_VAD)
    schedulers.append(shared := SharedScheduler(recognizer, BatchOptions(batch_s=30)))
    known: list[float] = []
    with ThreadPoolExecutor(1) as pool, shared.client() as client:
        on = model.on(client)
        whole = pool.submit(on.transcribe, tone(900), progress=lambda _, seconds: known.append(seconds))
        assert recognizer.begun.wait(20)
        while not shared._turn._waiters:  # type: ignore[attr-defined]
            time.sleep(0.005)
        held = [recording.held_s for recording in client._sessions]
        assert 90 <= sum(held) <= 180
        recognizer.go_on.set()
        assert whole.result(30).duration == 900.0


def test_no_answer_is_missed_while_it_is_being_put(schedulers: list[SharedScheduler]) -> None:
    class Slowly(Session):
        def put(self, id: int, outcome: Hypothesis | RedlineError) -> None:
            super().put(id, outcome)
            put.set()
            time.sleep(0.1)

    put = threading.Event()
    recognizer = FakeRecognizer()
    schedulers.append(shared := SharedScheduler(recognizer))
    session = Slowly(recognizer.limits(Task()), Task(), NO_VAD)
    session.feed(tone(1).samples)
    session.close()
    with shared.client() as client:
        client.submit(session)
        shared.call()
        assert put.wait(20) and session.waiting == 0
        assert client.step() and not client.step(), "the answer is told, once"


def test_a_batch_waits_a_moment_for_recordings_that_are_being_read(
    schedulers: list[SharedScheduler], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shared_module, "_COMPANY_S", 60.0)
    recognizer = FakeRecognizer()
    schedulers.append(shared := SharedScheduler(recognizer))
    first, second, third = (Session(recognizer.limits(Task()), Task(), NO_VAD) for _ in range(3))
    with shared.client() as client, shared.client() as other:
        for session, owner in ((first, client), (second, other), (third, other)):
            owner.submit(session)
        first.feed(tone(1).samples)
        first.close()
        shared.call()
        second.feed(tone(2).samples)
        second.close()  # now one is being read and two are ready
        assert client.step() and recognizer.batches == [[1.0, 2.0]]
        third.feed(tone(3).samples)
        third.close()
        while not third.done:
            assert other.step()
    assert recognizer.batches == [[1.0, 2.0], [3.0]]
