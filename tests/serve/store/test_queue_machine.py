"""The queue against a model of it that is a dictionary: any order of submissions, leases, deaths and late writers."""

from __future__ import annotations

import tempfile
from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from sqlalchemy import delete, select

from redline.serve.options import ServeOptions
from redline.serve.store.jobs import JobQueue, LeaseLostError, NewJob, TranscriptionJob
from redline.serve.store.store import Store
from redline.serve.store.tables import answers_table, jobs_table, transcripts_table
from redline.types import Transcript

from .conftest import Clock

pytestmark = pytest.mark.battery
LEASE_S, MOST_ATTEMPTS = 30.0, 3
NEW = NewJob("ana", "a.wav", {})
TEXT = Transcript("text", duration=1.0)


@dataclass
class Known:
    """What the model knows of a job."""

    state: str = "queued"
    attempts: int = 0
    holder: int = 0  # the newest token
    until: float = 0.0
    windows: set[int] = field(default_factory=set)


class QueueMachine(RuleBasedStateMachine):
    """Workers die silently: their leases are never used again, or much too late."""

    store: Store
    queue: type[JobQueue] = JobQueue

    def __init__(self) -> None:
        super().__init__()
        self.clock = Clock()
        self.store.now = self.store.jobs.now = self.store.archive.now = self.clock
        with self.store.database.write() as connection:
            connection.execute(delete(transcripts_table))
            connection.execute(delete(jobs_table))
        self.jobs: dict[str, Known] = {}
        self.leases: list[TranscriptionJob] = []
        self.keys: dict[str, str] = {}

    def ours(self, job: TranscriptionJob) -> bool:
        known = self.jobs[job.id]
        return known.state == "running" and known.holder == job.token

    def write(self, job: TranscriptionJob, action: Any) -> bool:
        """Write about a job as the holder of a lease; whether it is let must be what the model says."""
        try:
            action()
        except LeaseLostError:
            assert not self.ours(job), "the holder was refused"
            return False
        assert self.ours(job), "a late writer was let in"
        return True

    @initialize()
    def some_jobs(self) -> None:
        for _ in range(3):
            self.submit("")

    @rule(key=st.sampled_from(["", "a", "b"]))
    def submit(self, key: str) -> None:
        job, is_new = self.store.jobs.submit(NEW, key or None, "request")
        assert is_new == (not key or key not in self.keys)
        if is_new:
            self.jobs[job.id] = Known()
            self.keys |= {key: job.id} if key else {}
        else:
            assert job.id == self.keys[key]

    @rule()
    def lease(self) -> None:
        expected = None
        for id, known in self.jobs.items():  # in the order of submission
            if known.state == "queued" or (known.state == "running" and known.until <= self.clock.now):
                if known.attempts >= MOST_ATTEMPTS:
                    known.state = "failed"
                    continue
                expected = id
                break
        job = self.store.jobs.lease("worker")
        assert (None if job is None else job.id) == expected
        if job is not None:
            known = self.jobs[job.id]
            assert job.token > known.holder, "a token was given twice"
            known.state, known.holder, known.until = "running", job.token, self.clock.now + LEASE_S
            known.attempts += 1
            self.leases.append(job)

    @precondition(lambda self: self.leases)
    @rule(data=st.data(), windows=st.sets(st.integers(0, 5), max_size=2))
    def beat(self, data: st.DataObject, windows: set[int]) -> None:
        job = data.draw(st.sampled_from(self.leases))
        rows = [{"window_id": each, "model": "m", "start": 0, "end": 1, "answer": "{}"} for each in windows]
        if self.write(job, lambda: self.store.jobs.beat(job, 1.0, 2.0, rows)):
            known = self.jobs[job.id]
            known.until = self.clock.now + LEASE_S
            known.windows |= windows
            known.attempts = 1 if windows else known.attempts

    @precondition(lambda self: self.leases)
    @rule(data=st.data())
    def complete(self, data: st.DataObject) -> None:
        job = data.draw(st.sampled_from(self.leases))
        if self.write(job, lambda: self.store.complete(job, TEXT, None)):
            self.jobs[job.id].state = "done"

    @precondition(lambda self: self.leases)
    @rule(data=st.data(), again=st.booleans())
    def fail(self, data: st.DataObject, again: bool) -> None:
        job = data.draw(st.sampled_from(self.leases))
        if self.write(job, lambda: self.store.jobs.fail(job, "code", "message", again=again)):
            known = self.jobs[job.id]
            known.state = "queued" if again and known.attempts < MOST_ATTEMPTS else "failed"

    @precondition(lambda self: self.leases)
    @rule(data=st.data())
    def give_back(self, data: st.DataObject) -> None:
        job = data.draw(st.sampled_from(self.leases))
        if self.write(job, lambda: self.store.jobs.give_back(job)):
            self.jobs[job.id].state = "queued"
            self.jobs[job.id].attempts -= 1

    @precondition(lambda self: self.jobs)
    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        id = data.draw(st.sampled_from(list(self.jobs)))
        self.store.cancel(id)
        if self.jobs[id].state in ("queued", "running"):
            self.jobs[id].state = "cancelled"

    @rule(seconds=st.sampled_from([1.0, 29.0, 30.0, 31.0, -40.0]))
    def time_goes_on_or_a_clock_is_set_back(self, seconds: float) -> None:
        self.clock.now += seconds

    @invariant()
    def every_job_is_where_the_model_has_it_and_has_one_result_when_done(self) -> None:
        with self.store.database.read() as connection:
            rows = connection.execute(select(jobs_table.c.id, jobs_table.c.state, jobs_table.c.attempts)).all()
            results = list(connection.execute(select(transcripts_table.c.job_id)).scalars())
            kept = connection.execute(select(answers_table.c.job_id, answers_table.c.window_id)).all()
        assert {row.id: (row.state, row.attempts) for row in rows} == {
            id: (known.state, known.attempts) for id, known in self.jobs.items()
        }
        assert sorted(results) == sorted(id for id, known in self.jobs.items() if known.state == "done")
        open_jobs = {id: known for id, known in self.jobs.items() if known.state in ("queued", "running")}
        assert {tuple(row) for row in kept} == {(id, at) for id, known in open_jobs.items() for at in known.windows}


def run(examples: int, steps: int, queue: type[JobQueue] = JobQueue) -> None:
    """Drive a queue through so many runs."""
    with tempfile.TemporaryDirectory() as folder:
        store = Store(ServeOptions(data_dir=Path(folder), lease_s=LEASE_S, job_attempts=MOST_ATTEMPTS))
        store.jobs.__class__ = queue
        try:
            run_state_machine_as_test(
                type("Machine", (QueueMachine,), {"store": store}),
                settings=settings(
                    max_examples=examples, stateful_step_count=steps, deadline=None, database=None, derandomize=True,
                    phases=[Phase.generate], suppress_health_check=list(HealthCheck),
                ),
            )  # fmt: skip
        finally:
            store.close()


def test_the_queue_does_what_its_model_does() -> None:
    run(examples=15, steps=30)


@pytest.mark.laws
def test_the_queue_does_what_its_model_does_in_50_000_steps() -> None:
    run(examples=1000, steps=50)


class NoFencing(JobQueue):
    def _as_holder(self, connection: Any, job: TranscriptionJob, values: Any) -> None:
        newest = self._get(connection, job.id)
        super()._as_holder(connection, newest, values)


class NoExpiry(JobQueue):
    def lease(self, worker: str, in_work: Collection[str] = ()) -> TranscriptionJob | None:
        now, self.now = self.now, lambda: -1e12
        try:
            job = super().lease(worker, in_work)
        finally:
            self.now = now
        return job


class CancelForgets(JobQueue):
    def cancel(self, id: str) -> TranscriptionJob | None:
        return self.get(id)


class NeverGivenUp(JobQueue):
    def fail(self, job: TranscriptionJob, code: str, message: str, *, again: bool = False) -> Any:
        return super().fail(job, code, message) if not again else self.give_back(job)


class KeysForgotten(JobQueue):
    def submit(self, new: NewJob, key: str | None = None, request_sha256: str = "") -> tuple[TranscriptionJob, bool]:
        return super().submit(new)


@pytest.mark.parametrize("queue", [NoFencing, NoExpiry, CancelForgets, NeverGivenUp, KeysForgotten])
def test_the_model_finds_deliberate_bugs(queue: type[JobQueue]) -> None:
    with pytest.raises(AssertionError):
        run(examples=40, steps=30, queue=queue)
